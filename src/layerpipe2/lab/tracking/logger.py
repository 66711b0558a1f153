"""Lightning's side of a run in MLflow."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pytorch_lightning.loggers import Logger

from layerpipe2.lab.tracking.live import Writer
from layerpipe2.lab.tracking.metrics import of_end, of_epoch
from layerpipe2.lab.tracking.outcome import files_of, tags_of
from layerpipe2.lab.tracking.subject import Subject

_PHASES = ("train_", "val_")


class MLflowRun(Logger):
    """Writes a run of :func:`layerpipe2.lab.runs.train.train_run` to MLflow while it trains.

    Give it among the ``loggers``, within a ``with`` block, and call :meth:`finish` at the end of that; a block that an
    error ends leaves a run with the status FAILED, Ctrl-C one that is KILLED.
    """

    def __init__(self, writer: Writer, subject: Subject) -> None:
        super().__init__()
        self._writer, self._subject = writer, subject
        self._ended = False
        self._values = dict[str, float]()

    def __enter__(self) -> Self:
        self._writer.begin(self._subject.entry)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._ended:
            self._writer.end("FAILED" if kind is not None and issubclass(kind, Exception) else "KILLED")

    def finish(self, record: Mapping[str, Any], text: str) -> None:
        """The run has ended with this record, whose file has this text.

        Raises:
            UserError: if MLflow hasn't got all of it.
        """
        self._ended = True
        points = [
            *of_end(record),
            *(point for row in record["epochs"] for point in of_epoch({"lr": row["lr"]}, row["epoch"])),
        ]
        self._writer.end("FINISHED", points=points, tags=tags_of(record), files=files_of(record, text))

    @property
    def name(self) -> str:
        """That of MLflow's experiment."""
        return self._subject.experiment

    @property
    def version(self) -> str:
        """The run's name."""
        return self._subject.name

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """The values of an epoch; those of the test come with the record."""
        self._values |= {name: float(value) for name, value in metrics.items() if name.startswith(_PHASES)}
        if "train_loss" in self._values:  # comes last
            self._writer.points(of_epoch(self._values, int(metrics["epoch"])))
            self._values = {}

    def log_hyperparams(self, params: Any, *arguments: Any, **keywords: Any) -> None:
        """Nothing: the subject says it all."""
