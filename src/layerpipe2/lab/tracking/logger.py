"""Lightning's logger of a run that shows itself in MLflow while it trains."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow.entities import RunTag

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import Record
from layerpipe2.lab.tracking.copying import log_record, log_values, outcome_tags
from layerpipe2.lab.tracking.database import ARTIFACTS, connect, experiment_id, readable_errors
from layerpipe2.lab.tracking.description import RunDescription
from layerpipe2.lab.tracking.metrics import end_metrics, epoch_metrics
from layerpipe2.lightning import pl

_PHASES = ("train_", "val_")


class RunLogger(pl.loggers.Logger):
    """A run of :func:`layerpipe2.lab.runs.train.train_run` in MLflow.

    Give it among the ``loggers``, within a ``with`` block, and call :meth:`finish` at the end of that; a block that an
    error ends leaves a run with the status FAILED, one that Ctrl-C or SIGTERM ends leaves one that is KILLED. If
    MLflow can't be written to along the way, the training goes on, and :meth:`finish` says so.

    Args:
        where: path of MLflow's SQLite file, which is made if need be, or the address of a server (``http://...``).
        description: of the run.

    Raises:
        UserError: when the block begins, if MLflow can't be written to.
    """

    def __init__(self, where: str, description: RunDescription) -> None:
        super().__init__()
        self._where, self._description = where, description
        self._error: UserError | None = None
        self._finished = False

    def __enter__(self) -> Self:
        self._client, about = connect(self._where), self._description
        artifacts = None if "://" in self._where else Path(self._where).parent / ARTIFACTS
        with readable_errors(self._where):
            experiment = experiment_id(self._client, about.experiment, artifacts)
            self._run = self._client.create_run(experiment, None, about.tags(), about.name).info.run_id
            log_values(self._client, self._run, [], about.params())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._finished:
            with suppress(Exception):  # there is another error to tell
                failed = kind is not None and issubclass(kind, Exception)
                self._client.set_terminated(self._run, "FAILED" if failed else "KILLED")

    def finish(self, record: Record) -> None:
        """The run has ended with this record.

        Raises:
            UserError: if MLflow hasn't got all of it.
        """
        if self._error is not None:
            raise self._error
        rates = [metric for row in record["epochs"] for metric in epoch_metrics({"lr": row["lr"]}, row["epoch"])]
        with readable_errors(self._where):
            log_values(self._client, self._run, rates + end_metrics(record))
            self._client.log_batch(self._run, tags=[RunTag(*pair) for pair in outcome_tags(record).items()])
            log_record(self._client, self._run, record)
            self._client.set_terminated(self._run)
        self._finished = True

    @property
    def name(self) -> str:
        """That of MLflow's experiment."""
        return self._description.experiment

    @property
    def version(self) -> str:
        """The run's name."""
        return self._description.name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the values of an epoch; those of the test come with the record."""
        values = {name: float(value) for name, value in metrics.items() if name.startswith(_PHASES)}
        if self._error is not None or not values:
            return
        try:
            with readable_errors(self._where):
                log_values(self._client, self._run, epoch_metrics(values, int(metrics["epoch"])))
        except UserError as error:
            self._error = error

    def log_hyperparams(self, params: Any, *arguments: Any, **keywords: Any) -> None:
        """Do nothing: the description says it all."""
