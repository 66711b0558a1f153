"""Copy the run records to MLflow for browsing (`make ui`). Nothing reads results back from there.

Each experiment is one of MLflow's: a run per cell, with the means over its seeds, above a run per seed; a study above
each trial of a learning rate; and one run with figures, report and verdicts. A record is copied once, however often
this runs; one that was trained again replaces its copy, and the copy of one that is gone is deleted. Of several
processes one copies at a time, the others wait. A copy starts when its training run started and lasts as long; those
with the tag ``probed`` took longer than training does, because averages were measured along the way: don't compare
their times with those of other runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pandas as pd

from experiments.accuracy.examples import example_rows
from experiments.accuracy.grid import TUNED
from experiments.accuracy.tables import run_rows
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import shares
from layerpipe2.lab.judging.objectives import judged
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import (
    Record,
    output_file,
    read_json,
    read_record,
    with_times,
    writable_folder,
    write_json,
)
from layerpipe2.lab.tracking.copying import CHECKSUM, RecordedRun, copy_runs, runs_of
from layerpipe2.lab.tracking.database import ARTIFACTS, PREFIX, connect, experiment_id, locked, readable_errors
from layerpipe2.lab.tracking.description import (
    CELL,
    FINAL,
    NOTE,
    SEED,
    SUMMARY,
    TRAIN,
    TRIAL,
    TUNE,
    RunDescription,
    differing,
    digest,
    shown_on,
)
from layerpipe2.lab.tracking.metrics import TEST

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SHOWN = ("*.svg", "*.md", "*.json")
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


LARGER = [Path("results/evidence")]
"""Folders of experiments whose records are committed."""
_DAMAGED = "make it again with `python -m experiments.collect`"


FIGURES = {
    "screen-*": "screening",
    "why-recall*": "recalled",
    "why-start": "started",
    "field-*": "heat_2S",
    "evidence-*": "costs",
}
"""Names of experiments -> the figure that their runs are in; that of any other is the report's."""
_SEVERAL = ("costs", "heat_2S")
"""Runs are in this figure or in another one or a table of its page: their address is that of the page."""
SITE = Path("build/site/out")
"""Where `make site` puts the pages, from the project's folder."""


class Source(NamedTuple):
    """The records of an experiment, with the folder that their keys start from, and the folder of its pages.

    ``top`` is the folder of all pages; ``about`` is what :mod:`experiments.collect` has said of it in
    ``experiment.json``; empty before that.
    """

    experiment: str
    folder: Path
    records: dict[Path, Record]
    pages: Path
    top: Path
    about: dict[str, Any]

    def page(self, phase: str) -> str:
        """The address of what shows runs of a phase, from the project's folder; empty if no page has it."""
        report = "tuning_rates" if phase == TUNE else "final_accuracy"
        figure = next((figure for name, figure in FIGURES.items() if fnmatch(self.experiment, name)), report)
        own = self.top / "experiments" / self.experiment  # of `make paper`: this experiment alone
        folders = (
            [own] if own.is_dir() else [self.top, *(path for path in self.top.glob("*") if path.name != "experiments")]
        )
        for path in (path for folder in folders for path in sorted(folder.glob("*.md"))):
            if f'id="figure-{figure}"' in path.read_text(encoding="utf-8"):
                place = (SITE / path.relative_to(self.top)).with_suffix(".html").as_posix()
                return place if figure in _SEVERAL else f"{place}#figure-{figure}"
        return ""

    @property
    def shown(self) -> list[Path]:
        """List the files of its pages that MLflow can show; none below the folders of other pages."""
        return sorted(
            path for top in (self.pages, self.pages / "figures") for kind in _SHOWN for path in top.glob(kind)
        )

    @property
    def verdicts(self) -> dict[str, str]:
        """Claim or question -> verdict."""
        path = self.pages / "verdicts.json"
        return {str(key): str(value) for key, value in json.loads(path.read_text()).items()} if path.exists() else {}


def add_summary(client: MlflowClient, experiment: str, source: Source, kinds: Iterable[str]) -> None:
    """Bring the description of an experiment with runs of these kinds, and the run of its figures, up to date."""
    note = "\n".join(_note(experiment, source, kinds))
    client.set_experiment_tag(experiment, NOTE, note)
    mark = digest([note, *((str(path), digest(path.read_bytes().hex())) for path in source.shown)])
    old = runs_of(client, experiment, f"tags.kind = '{SUMMARY}'")
    done = {run.data.tags.get(CHECKSUM) for run in old if run.info.status == "FINISHED"}
    if not source.shown or mark in done:
        return
    tags = {"kind": SUMMARY, "experiment": source.experiment, CHECKSUM: mark, NOTE: note}
    run = client.create_run(experiment, None, tags, f"figures and report of {source.experiment}").info.run_id
    for path in source.shown:
        folder = path.parent.relative_to(source.pages)
        client.log_artifact(run, str(path), None if folder == Path() else str(folder))
    client.set_terminated(run)
    for replaced in old:
        client.delete_run(replaced.info.run_id)


def _note(experiment: str, source: Source, kinds: Iterable[str]) -> Iterator[str]:
    yield f"Runs of `experiments/{source.experiment}.yaml`, which reproduces {_PAPER}."
    yield ""
    yield from (f"- [{shown.title}]({link('', experiment, shown)})" for shown in lists_of(kinds))
    if page := source.page(FINAL):
        yield from ("", shown_on(page))
    if source.verdicts:
        yield from ("", "| claim | verdict |", "| --- | --- |")
        yield from (f"| {name} | {verdict} |" for name, verdict in source.verdicts.items())
        where = f"the artifacts of the run `figures and report of {source.experiment}`"
        yield from ("", f"Figures, report and evidence: {where}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, copy the new ones, say where to look at them.

    Raises:
        UserError: if there are none or one is damaged, or if database or artifacts can't be written.
    """
    parser = Parser(prog="python -m experiments.track", description=__doc__)
    add = parser.add_argument
    add("--runs", type=Path, default=Path("results/runs"), help="default: %(default)s")
    add("--larger", type=Path, nargs="+", default=LARGER, help="of larger ones; default: results/evidence")
    add("--pages", type=Path, default=Path("paper_figures/out"), help="figures and reports; default: %(default)s")
    home, experiment = checkout(Path.cwd()), os.environ.get("DVC_EXP_NAME", "")
    add("--database", type=Path, default=home / "mlflow.db", help="default: mlflow.db")
    add("--artifacts", type=Path, default=home / ARTIFACTS, help=f"default: {ARTIFACTS}")
    add("--summary", type=Path, help="JSON file that counts the records, for DVC")
    add("--port", type=within(int, 1, 65535), help="print links for a server that will listen there on 127.0.0.1")
    add("--every", type=within(int, 1, 86400), metavar="SECONDS", help="go on copying what is new, until Ctrl-C")
    options = parser.parse_args(arguments)
    tracked = _modified(options)
    _track_once(options, experiment)
    while options.every is not None:
        time.sleep(options.every)
        with suppress(UserError, FileNotFoundError):  # a record that is being replaced; the next look finds it
            if (there := _modified(options)) != tracked:
                _track_once(options, experiment, quiet=True)
                tracked = there


def _modified(options: argparse.Namespace) -> dict[Path, int]:
    """When every file of records and pages was written."""
    results = options.runs.parent
    folders = (options.runs, results / "tune", *options.larger, options.pages)
    files = [*results.glob("*.json"), *(path for folder in folders for path in folder.rglob("*"))]
    return {path: path.stat().st_mtime_ns for path in files}


def _track_once(options: argparse.Namespace, experiment: str, *, quiet: bool = False) -> None:
    records = sources(options.runs, options.larger, options.pages)
    if experiment:  # of `dvc exp run`: beside the runs of the study that it changes, not in their place
        records = [records[0]._replace(experiment=f"{records[0].experiment} {experiment}")]
    new, links = track(records, options.database, options.artifacts)
    total = sum(len(source.records) for source in records)
    if options.summary:
        write_json(options.summary, {"records": total})
    if new or not quiet:
        print(f"{new} of {total} runs were new to {options.database}", flush=True)
    if options.port is not None and not quiet:
        for title, address in links:
            print(f"{title}:\n  http://127.0.0.1:{options.port}{address}")


def checkout(folder: Path) -> Path:
    """The checkout of which ``dvc exp run --temp`` has made the copy ``folder``; ``folder`` itself if it is none.

    >>> checkout(Path("/home/me/layerpipe2/.dvc/tmp/exps/standalone/tmpabc"))
    PosixPath('/home/me/layerpipe2')
    """
    return next((place.parent for place in folder.parents if place.name == ".dvc"), folder)


def sources(runs: Path, larger: Sequence[Path], pages: Path) -> list[Source]:
    """Read all experiments with records: that of ``make reproduce``, and those whose records are committed.

    Raises:
        UserError: if there are no records, or one is broken.
    """
    times = runs.parent / "times"
    own = {
        path: with_times(record, times / path.relative_to(runs)) for path, record in cell_file.read_all(runs).items()
    }
    if not own:
        raise UserError(f"no run records below {runs}; train first (`make reproduce`)")
    own |= _trials(runs.parent)
    described = _about(runs.parent)
    name = described.get("name", next(iter(own.values()))["config"]["dataset"])
    all_sources = [Source(str(name), runs.parent, own, pages, pages, described)]
    for folder in (path for parent in larger for path in sorted(parent.glob("*")) if (path / "runs").is_dir()):
        records = cell_file.read_all(folder / "runs") | _trials(folder)
        kind = folder.parent.name
        place = pages / kind if kind == "evidence" else pages / kind / folder.name  # the evidence has one page for all
        all_sources.append(Source(folder.name, folder, records, place, pages, _about(folder / "tables")))
    return all_sources


def _trials(folder: Path) -> dict[Path, Record]:
    return {path: read_record(path) for path in sorted((folder / "tune").rglob("*.json"))}


def _about(tables: Path) -> dict[str, Any]:
    path = tables / "experiment.json"
    return read_json(path, _DAMAGED) if path.exists() else {}


def track(records: Sequence[Source], database: Path, artifacts: Path) -> tuple[int, list[tuple[str, str]]]:
    """Copy every record that isn't there yet.

    Args:
        records: those of every experiment.
        database: SQLite file, made if need be.
        artifacts: folder of the records' copies; MLflow keeps its absolute path.

    Returns:
        How many were new, and the lists to look at: what they show, and their addresses without that of the server.

    Raises:
        UserError: if the database or the folder can't be written, or the database isn't whole.
    """
    writable_folder(artifacts)
    output_file(database)
    new, links = 0, list[tuple[str, str]]()
    client = connect(str(database))
    with locked(database), readable_errors(str(database)):
        for source in records:
            runs = recorded_runs(source)
            kinds = {kind for run in runs for kind in run.description.kinds}
            experiment = experiment_id(client, source.experiment, artifacts)
            new += copy_runs(client, experiment, runs)
            add_summary(client, experiment, source, kinds)
            links += [(f"{source.experiment}, {s.title}", link("", experiment, s)) for s in lists_of(kinds)]
        if trained := client.get_experiment_by_name(PREFIX + TRAIN):  # runs of `layerpipe2 train --mlflow`
            links.append((f"{TRAIN}, every run", link("", trained.experiment_id, LISTS["seeds"])))
    return new, links


def recorded_runs(source: Source) -> list[RecordedRun]:
    """The records of an experiment with what MLflow says of them."""
    names = differing(record["config"] for record in source.records.values())
    pages = {phase: source.page(phase) for phase in (FINAL, TUNE)}
    won_back, objective = _shares(source), judged(source.about["report"]) if source.about else ""
    runs = []
    for path, record in source.records.items():
        phase, rate = _phase(source, path), _rate(source, path, record)
        word = rate if phase == FINAL and "lr" in names and rate != "tuned" else ""
        told = word, objective, pages[phase]
        about = RunDescription(source.experiment, phase, record["config"], record["delays"], names, *told)
        runs.append(RecordedRun(about, record, _started(path, record), won_back.get(path)))
    return runs


def _started(path: Path, record: Record) -> float:
    """When a run started, in s since 1970; of one that another machine trained, when its file was written here."""
    started = record["provenance"]["started"]
    file = path if path.is_file() else path.parent / cell_file.FILE
    return datetime.fromisoformat(started).timestamp() if started else file.stat().st_mtime


def _shares(source: Source) -> dict[Path, float]:
    """What the strategies of final runs win back, in per cent, where the report tells it."""
    final = {
        path: record | {"rate": _rate(source, path, record)}
        for path, record in source.records.items()
        if source.about and _phase(source, path) == FINAL and record["test"]
    }
    if not final:
        return {}
    settings, rows = ComparisonSettings.of(source.about), [run_rows(record)[0] for record in final.values()]
    runs = pd.DataFrame(rows, list(final)).astype({"test_accuracy": float, "test_loss": float})
    examples = pd.DataFrame(example_rows(final.values())) if settings.image_guard else pd.DataFrame()
    known = shares(runs, settings, None if examples.empty else examples).dropna()
    return {path: round(100 * share, 1) for path, share in known.items()}


def _phase(source: Source, path: Path) -> str:
    return TUNE if {"tune", "trials"} & set(path.relative_to(source.folder).parts) else FINAL


def _rate(source: Source, path: Path, record: Record) -> str:
    """Where the learning rate of a final run comes from: ``rate`` of :mod:`experiments.accuracy.tables`."""
    if "-common-s" in path.stem:
        return "common"
    return "tuned" if (source.folder / TUNED).exists() else f"{record['config']['lr']:g}"


if __name__ == "__main__":
    sys.exit(run_command("experiments.track", main, None))
