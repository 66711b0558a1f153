"""Copies of finished run records in an MLflow experiment: unchanged ones stay, others replace what was there.

Every run in MLflow has a checksum of all that it shows. It is finished last, so that a copy which was cut off has the
status RUNNING and is made again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from pandas import DataFrame

from layerpipe2.lab.runs.record_schema import TIMES
from layerpipe2.lab.runs.records import Record, record_text
from layerpipe2.lab.tracking.description import SUMMARY, TUNE, RunDescription, digest
from layerpipe2.lab.tracking.metrics import cell_metrics, run_metrics, study_metrics

CHECKSUM, PARENT = "layerpipe2.checksum", "mlflow.parentRunId"
LAYOUT = 3
"""Version of the copies: another one than before has all records copied again."""
_ERROR = ["stage", "delay", "strategy", "relative_error", "n"]
_METRICS_PER_CALL = 900  # MLflow takes 1,000 metrics and parameters


@dataclass(frozen=True)
class RecordedRun:
    """A run, its record, its start in seconds since 1970, and what its cell wins back (%), where that is known."""

    description: RunDescription
    record: Record
    started: float
    won_back: float | None = None

    @property
    def ended(self) -> float:
        """The time when it ended, or where that isn't known, when it started."""
        return self.started + (self.record["provenance"]["wall_time_s"] or 0.0)

    @cached_property
    def checksum(self) -> str:
        """Digest of what MLflow shows of it, without times: a rerun that gives the same numbers has the same."""
        where = {name: value for name, value in self.record["provenance"].items() if name not in TIMES}
        about = self.description
        return digest([LAYOUT, about.name, about.params(), about.tags(), {**self.record, "provenance": where}])


def copy_runs(client: MlflowClient, experiment: str, runs: Iterable[RecordedRun]) -> int:
    """Have an experiment show these runs below their cells, and no others; returns how many were new or changed.

    Args:
        client: of a database that no other process copies to meanwhile.
        experiment: its identity.
        runs: all runs of the experiment.
    """
    cells: dict[str, list[RecordedRun]] = {}
    for run in runs:
        cells.setdefault(run.description.cell_key, []).append(run)
    old = runs_of(client, experiment, f"tags.kind != '{SUMMARY}'")
    there = {run.data.tags.get(CHECKSUM): run for run in old if run.info.status == "FINISHED"}
    kept, new = set[str](), 0
    for cell in cells.values():
        mark = _cell_checksum(cell)
        parent = there[mark].info.run_id if mark in there else _copy_cell(client, experiment, cell, mark)
        kept.add(parent)
        for run in cell:
            if (copy := there.get(run.checksum)) is None:
                _copy_run(client, experiment, run, parent)
                new += 1
                continue
            kept.add(copy.info.run_id)
            if copy.data.tags[PARENT] != parent:
                client.set_tag(copy.info.run_id, PARENT, parent)
    for run in old:
        if run.info.run_id not in kept:
            client.delete_run(run.info.run_id)
    return new


def runs_of(client: MlflowClient, experiment: str, which: str = "") -> list[Run]:
    """The runs of an experiment that aren't deleted: those that MLflow's filter names, or all."""
    return list(client.search_runs([experiment], which, max_results=50_000))


def log_values(
    client: MlflowClient, run: str, metrics: Sequence[Metric], params: Mapping[str, str] | None = None
) -> None:
    """Add metrics, however many, and parameters to a run."""
    given = [Param(name, value) for name, value in (params or {}).items()]
    for first in range(0, max(len(metrics), 1), _METRICS_PER_CALL):
        client.log_batch(run, metrics[first : first + _METRICS_PER_CALL], () if first else given)


def outcome_tags(record: Record) -> dict[str, str]:
    """How a run has ended, where it ran, and the code that it ran."""
    where = record["provenance"]
    tags = {"status": record["status"], "device": where["device"]}
    if where["commit"]:
        tags |= {"commit": where["commit"], "dirty": str(where["dirty"]).lower()}
        tags |= {"mlflow.source.git.commit": where["commit"]}
    tags |= {"diverged_epoch": str(record["diverged_epoch"])} if record["status"] == "diverged" else {}
    return tags | ({"probed": "true"} if record["reconstruction"] else {})


def log_record(client: MlflowClient, run: str, record: Record) -> None:
    """Add a run's artifacts: its record, and a table of the errors of the rules that it measured."""
    client.log_text(run, record_text(record), "record.json")
    if record["reconstruction"]:
        table = DataFrame(record["reconstruction"], columns=_ERROR)
        client.log_text(run, table.to_csv(index=False), "reconstruction.csv")


def _cell_checksum(cell: Sequence[RecordedRun]) -> str:
    about, won_back = cell[0].description, cell[0].won_back
    shown = [about.cell_name, about.params(cell=True), about.tags(cell=True), won_back]
    return digest([LAYOUT, shown, [run.checksum for run in cell]])


def _copy_run(client: MlflowClient, experiment: str, run: RecordedRun, parent: str) -> None:
    about, record = run.description, run.record
    tags = about.tags() | outcome_tags(record) | {CHECKSUM: run.checksum, PARENT: parent}
    copy = client.create_run(experiment, _milliseconds(run.started), tags, about.name).info.run_id
    log_values(client, copy, run_metrics(record), about.params())
    log_record(client, copy, record)
    client.set_terminated(copy, end_time=_milliseconds(run.ended))


def _copy_cell(client: MlflowClient, experiment: str, cell: Sequence[RecordedRun], mark: str) -> str:
    about, records = cell[0].description, [run.record for run in cell]
    start = _milliseconds(min(run.started for run in cell))
    copy = client.create_run(experiment, start, about.tags(cell=True) | {CHECKSUM: mark}, about.cell_name).info.run_id
    if about.phase == TUNE:
        metrics = study_metrics(records, about.objective)
    else:
        metrics = cell_metrics(records, cell[0].won_back)
    log_values(client, copy, metrics, about.params(cell=True))
    client.set_terminated(copy, end_time=_milliseconds(max(run.ended for run in cell)))
    return str(copy)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
