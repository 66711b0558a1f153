"""Many runs in one transaction: what MLflow's client does, without a transaction of its own for every call.

Through the client 225 runs take half a minute. The rows are those that MLflow's own store writes.
"""

import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from mlflow.entities import DatasetInput, LifecycleStage, Metric, Param, RunStatus, RunTag
from mlflow.store.tracking.dbmodels import models
from mlflow.tracking import MlflowClient

Row = dict[str, Any]


class BulkClient:
    """Stands for a client while runs are copied; :meth:`write` writes it all, or nothing.

    Artifacts are written at once, to folders of runs that nobody knows yet.
    """

    def __init__(self, client: MlflowClient, database: Path) -> None:
        self._client, self._database = client, database
        self._places = dict[str, str]()
        self._datasets = dict[tuple[int, str, str], str]()
        self._ended = list[Row]()
        self._made = dict[str, Row]()
        self._rows: dict[Any, list[Row]] = {table: [] for table in _TABLES}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)  # whatever only reads, and experiments

    def create_run(self, experiment_id: str, start_time: int, tags: Mapping[str, str], run_name: str) -> str:
        """As the client's; returns the new run's identity."""
        if experiment_id not in self._places:
            self._places[experiment_id] = self._client.get_experiment(experiment_id).artifact_location
        run = uuid.uuid4().hex
        self._made[run] = (
            {"run_uuid": run, "name": run_name, "experiment_id": int(experiment_id), "start_time": start_time}
            | {"status": RunStatus.to_string(RunStatus.RUNNING), "lifecycle_stage": LifecycleStage.ACTIVE}
            | {"artifact_uri": f"{self._places[experiment_id]}/{run}/artifacts", "user_id": "", "source_name": ""}
            | {"source_type": "UNKNOWN", "source_version": "", "entry_point_name": ""}
        )
        self._rows[models.SqlRun].append(self._made[run])
        self.log_batch(run, tags=[RunTag(name, text) for name, text in (*tags.items(), ("mlflow.runName", run_name))])
        return run

    def log_batch(
        self, run: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """As the client's."""
        rows = [
            {"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step, "is_nan": False, "run_uuid": run}
            for m in metrics
        ]
        self._rows[models.SqlMetric] += rows
        latest = {row["key"]: row for row in sorted(rows, key=lambda row: (row["step"], row["timestamp"]))}
        self._rows[models.SqlLatestMetric] += latest.values()
        for table, pairs in ((models.SqlParam, params), (models.SqlTag, tags)):
            self._rows[table] += [{"key": pair.key, "value": pair.value, "run_uuid": run} for pair in pairs]

    def log_inputs(self, run: str, inputs: Iterable[DatasetInput]) -> None:
        """As the client's, for a run that was made here."""
        experiment = self._made[run]["experiment_id"]
        for given in inputs:
            identity = uuid.uuid4().hex
            edge = {"source_type": "DATASET", "source_id": self._dataset(experiment, given.dataset)}
            edge |= {"destination_type": "RUN", "destination_id": run, "input_uuid": identity}
            self._rows[models.SqlInput].append(edge)
            self._rows[models.SqlInputTag] += [
                {"input_uuid": identity, "name": tag.key, "value": tag.value} for tag in given.tags
            ]

    def log_artifact(self, run: str, file: str, folder: str | None = None) -> None:
        """As the client's, for a run that was made here."""
        shutil.copyfile(file, self._folder(run, folder or "") / Path(file).name)

    def log_text(self, run: str, text: str, name: str) -> None:
        """As the client's, for a run that was made here."""
        (self._folder(run) / name).write_text(text, encoding="utf-8")

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        """As the client's."""
        self._ended.append({"run": run, "status": status, "end_time": end_time})

    def set_tag(self, run: str, key: str, value: str) -> None:
        """As the client's."""
        self.log_batch(run, tags=[RunTag(key, value)])

    def delete_run(self, run: str) -> None:
        """As the client's."""
        self._ended.append({"run": run, "lifecycle_stage": LifecycleStage.DELETED})

    def write(self) -> None:
        """Write all that was said so far.

        Raises:
            OSError: if the database can't be written.
        """
        engine = sa.create_engine(f"sqlite:///{self._database.resolve()}", connect_args={"timeout": 60})
        try:
            with engine.begin() as connection:
                for table in _TABLES:
                    if self._rows[table]:
                        connection.execute(sa.insert(table).prefix_with("OR REPLACE"), self._rows[table])
                for row in self._ended:
                    values = {name: value for name, value in row.items() if name != "run"}
                    run = sa.update(models.SqlRun).where(models.SqlRun.run_uuid == row["run"])
                    connection.execute(run.values(values))
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise OSError(str(error)) from None
        finally:
            engine.dispose()
        self._rows, self._ended = {table: [] for table in _TABLES}, []

    def _folder(self, run: str, below: str = "") -> Path:
        folder = Path(unquote(urlsplit(self._made[run]["artifact_uri"]).path), below)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _dataset(self, experiment: int, dataset: Any) -> str:
        key = (experiment, dataset.name, dataset.digest)
        if key not in self._datasets:
            row = {"experiment_id": experiment, "name": dataset.name, "digest": dataset.digest}
            known = self._known_dataset(row)
            self._datasets[key] = known or uuid.uuid4().hex
            if known is None:
                row |= {"dataset_uuid": self._datasets[key], "dataset_profile": dataset.profile}
                row |= {"dataset_source_type": dataset.source_type, "dataset_source": dataset.source}
                self._rows[models.SqlDataset].append(row | {"dataset_schema": dataset.schema})
        return self._datasets[key]

    def _known_dataset(self, row: Row) -> str | None:
        engine = sa.create_engine(f"sqlite:///{self._database.resolve()}")
        wanted = sa.select(models.SqlDataset.dataset_uuid).filter_by(**row)
        try:
            with engine.connect() as connection:
                found = connection.execute(wanted).scalar()
        finally:
            engine.dispose()
        return None if found is None else str(found)


_TABLES = (
    *(models.SqlRun, models.SqlTag, models.SqlParam, models.SqlMetric, models.SqlLatestMetric),
    *(models.SqlDataset, models.SqlInput, models.SqlInputTag),
)
