"""The runs of one MLflow experiment: begun, filled, ended, replaced by their reruns, grouped under their cells."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.tracking import MlflowClient

from layerpipe2.lab.tracking.entry import CELL, CELLS, PARENT, STUDIES, Entry
from layerpipe2.lab.tracking.metrics import Point, Values, of_cell

PREFIX = "layerpipe2/"
"""Of the names of our experiments in MLflow."""
_METRICS_PER_CALL = 1000


class Book:
    """The runs of one experiment in MLflow, which is made if need be.

    Args:
        client: of a database or a server.
        experiment: as in ``digits``.
        artifacts: folder of its files; None leaves that to MLflow.
    """

    def __init__(self, client: MlflowClient, experiment: str, artifacts: Path | None = None) -> None:
        self.client, self.name = client, f"{PREFIX}{experiment}"
        found = client.get_experiment_by_name(self.name)
        place = None if artifacts is None else artifacts.resolve().as_uri()
        self.identity = str(
            found.experiment_id if found else client.create_experiment(self.name, artifact_location=place)
        )
        self._parents: dict[str, str] | None = None

    def runs(self, **tags: str) -> list[Run]:
        """The runs with these tags, or all."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found, token = list[Run](), None
        while True:
            page = self.client.search_runs([self.identity], wanted, ViewType.ACTIVE_ONLY, 10_000, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def create(self, name: str, tags: Mapping[str, str], start: float | None = None) -> str:
        """A new run, in MLflow's list alone; returns its identity."""
        at = round(1000 * (time.time() if start is None else start))
        made = self.client.create_run(self.identity, at, tags, name)
        return made if isinstance(made, str) else str(made.info.run_id)

    def begin(self, entry: Entry, start: float | None = None, **tags: str) -> str:
        """A new run below its cell; returns its identity.

        Args:
            entry: what is known of it.
            start: seconds since 1970; now by default.
            tags: further ones.
        """
        name, params, own = entry.run
        identity = self.create(name, {**own, PARENT: self.parent(entry, start), **tags}, start)
        self.client.log_batch(identity, params=[Param(*pair) for pair in params.items()])
        what = entry.dataset
        source = json.dumps({"name": what["name"]})
        dataset = Dataset(what["name"], what["digest"], "local", source, profile=what["profile"])
        self.client.log_inputs(identity, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        return identity

    def parent(self, entry: Entry, start: float | None = None, **further: str) -> str:
        """The identity of the run's cell, which is made if need be, with further tags."""
        name, params, tags = entry.cell
        parents = self.adopt(self.runs()) if self._parents is None else self._parents
        if tags[CELL] not in parents:
            parents[tags[CELL]] = self.create(name, tags | further, start)
            self.client.log_batch(parents[tags[CELL]], params=[Param(*pair) for pair in params.items()])
        return parents[tags[CELL]]

    def adopt(self, runs: Iterable[Run]) -> dict[str, str]:
        """Take these cells for those that there are: cell -> identity."""
        self._parents = {run.data.tags[CELL]: run.info.run_id for run in runs if is_parent(run)}
        return self._parents

    def log(self, identity: str, points: Iterable[Point], **tags: str) -> None:
        """Add values and tags to a run."""
        metrics = [Metric(name, value, 0, step) for name, value, step in points]
        chunks = [metrics[i : i + _METRICS_PER_CALL] for i in range(0, len(metrics), _METRICS_PER_CALL)] or [[]]
        for chunk in chunks:
            self.client.log_batch(identity, chunk, tags=[RunTag(*pair) for pair in tags.items()])

    def end(self, identity: str, status: str = "FINISHED", at: float | None = None) -> None:
        """Close a run, at a time in seconds since 1970."""
        self.client.set_terminated(identity, status, round(1000 * (time.time() if at is None else at)))

    def remove(self, runs: Iterable[Run]) -> None:
        """Delete runs, which are closed before."""
        for run in runs:
            if run.info.status == "RUNNING":
                self.end(run.info.run_id, "KILLED")
            self.client.delete_run(run.info.run_id)

    def summarize(self) -> None:
        """Give every cell and study the values over its finished runs, and close those that nothing runs in."""
        runs = self.runs(current="true")
        below: dict[str, list[Run]] = {}
        for run in runs:
            below.setdefault(run.data.tags.get(PARENT, ""), []).append(run)
        parents = {run.info.run_id: run for run in runs if is_parent(run)}
        done = {name: [run for run in below.get(name, ()) if run.info.status == "FINISHED"] for name in parents}
        for name, parent in parents.items():
            metrics = [run.data.metrics for run in done[name]]
            study = parent.data.tags["kind"] == STUDIES
            values = {} if not metrics else {"n/trials": len(metrics)} if study else of_cell(metrics)
            self._update(parent, values, below.get(name, []))

    def _update(self, parent: Run, values: Values, runs: Sequence[Run]) -> None:
        changed = {name: value for name, value in values.items() if parent.data.metrics.get(name) != value}
        if changed:
            now = round(1000 * time.time())  # of two values for one step MLflow shows the later
            self.client.log_batch(parent.info.run_id, [Metric(name, value, now, 0) for name, value in changed.items()])
        status = "FINISHED" if values else "KILLED"
        if parent.info.status != status and not any(run.info.status == "RUNNING" for run in runs):
            ends = [run.info.end_time for run in runs]
            self.end(parent.info.run_id, status, max(ends) / 1000 if ends else None)


def is_parent(run: Run) -> bool:
    """Whether it is a cell or a study."""
    return run.data.tags.get("kind") in (CELLS, STUDIES)
