"""What MLflow says of an experiment as a whole: links to its lists, its verdicts, its figures and its report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from layerpipe2.lab.tracking.copying import CHECKSUM, runs_of
from layerpipe2.lab.tracking.description import CELL, NOTE, SEED, SUMMARY, TRIAL, digest
from layerpipe2.lab.tracking.metrics import TEST

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SHOWN = ("*.svg", "*.html", "*.md", "*.json")
_PAPER = "[LayerPipe2](https://arxiv.org/abs/2512.08160)"


class RunList(NamedTuple):
    """What a link opens: its title, the kind of its runs, the column that orders them, and whether it draws them."""

    title: str
    kind: str
    order: str
    ascending: bool = False
    charts: bool = False


LISTS = {
    "cells": RunList("cells, by test accuracy: means over the seeds", CELL, f"metrics.`{TEST}`"),
    "charts": RunList("charts of the cells", CELL, f"metrics.`{TEST}`", charts=True),
    "seeds": RunList("every run, in the order of the cells", SEED, "params.`cell`", ascending=True),
    "trials": RunList("trials of the learning rates, in the order of their studies", TRIAL, "params.`cell`", True),
}


def link(server: str, experiment: str, shown: RunList) -> str:
    """The address of a list; ``server`` is as in ``http://127.0.0.1:5000``, or empty for a link within MLflow."""
    query = {"searchFilter": f"tags.kind = '{shown.kind}'", "orderByKey": shown.order}
    query |= {"orderByAsc": str(shown.ascending).lower(), "workflowType": "machine_learning"}
    query |= {"compareRunsMode": "CHART"} if shown.charts else {}
    return f"{server}/#/experiments/{experiment}/runs?{urlencode(query)}"


def lists_of(kinds: Iterable[str]) -> list[RunList]:
    """The lists that show runs of these kinds."""
    return [shown for shown in LISTS.values() if shown.kind in set(kinds)]


class Pages(NamedTuple):
    """The folder of an experiment's figures, report and verdicts."""

    experiment: str
    folder: Path

    @property
    def files(self) -> list[Path]:
        """Those that MLflow can show; none below the folders of other pages."""
        return sorted(
            path for top in (self.folder, self.folder / "figures") for kind in _SHOWN for path in top.glob(kind)
        )

    @property
    def verdicts(self) -> dict[str, str]:
        """Claim or question -> verdict."""
        path = self.folder / "verdicts.json"
        return {str(key): str(value) for key, value in json.loads(path.read_text()).items()} if path.exists() else {}


def add_summary(client: MlflowClient, experiment: str, pages: Pages, kinds: Iterable[str]) -> None:
    """Bring the description of an experiment with runs of these kinds, and the run of its figures, up to date."""
    note = "\n".join(_note(experiment, pages, kinds))
    client.set_experiment_tag(experiment, NOTE, note)
    mark = digest([note, *((str(path), digest(path.read_bytes().hex())) for path in pages.files)])
    old = runs_of(client, experiment, f"tags.kind = '{SUMMARY}'")
    done = {run.data.tags.get(CHECKSUM) for run in old if run.info.status == "FINISHED"}
    if not pages.files or mark in done:
        return
    tags = {"kind": SUMMARY, "experiment": pages.experiment, CHECKSUM: mark, NOTE: note}
    run = client.create_run(experiment, None, tags, f"figures and report of {pages.experiment}").info.run_id
    for path in pages.files:
        folder = path.parent.relative_to(pages.folder)
        client.log_artifact(run, str(path), None if folder == Path() else str(folder))
    client.set_terminated(run)
    for replaced in old:
        client.delete_run(replaced.info.run_id)


def _note(experiment: str, pages: Pages, kinds: Iterable[str]) -> Iterator[str]:
    yield f"Runs of `experiments/{pages.experiment}.yaml`, which reproduces {_PAPER}."
    yield ""
    yield from (f"- [{shown.title}]({link('', experiment, shown)})" for shown in lists_of(kinds))
    if pages.verdicts:
        yield from ("", "| claim | verdict |", "| --- | --- |")
        yield from (f"| {name} | {verdict} |" for name, verdict in pages.verdicts.items())
        where = f"the artifacts of the run `figures and report of {pages.experiment}`"
        yield from ("", f"Figures, report and evidence: {where}.")
