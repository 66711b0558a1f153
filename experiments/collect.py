"""Collect an experiment's records into flat tables; figures, tables and verdicts are functions of these alone.

``experiment.json`` says what the experiment is and how much of it is finished. ``runs.csv`` and ``times.csv`` have a
row per run, ``epochs.csv`` one per epoch, ``stages.csv`` one per stage. ``reconstruction.csv`` has the errors of
reconstructed weights, ``examples.csv`` strategies compared by test example, ``tuning.csv`` the trials of the studies.
``metrics.json`` is for `dvc metrics`, ``curves/*.csv`` for `dvc plots`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.accuracy import guess
from experiments.accuracy.examples import example_rows
from experiments.accuracy.grid import Grid, Task
from experiments.accuracy.schema import Experiment, read_experiment
from experiments.accuracy.tables import TABLES, curves, metrics, unique
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import COLUMNS
from layerpipe2.lab.judging.share_rule import margins
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import Record, write_csv, write_json, write_text

Finished = list[tuple[Task, Record]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, write the tables.

    Raises:
        UserError: if no run is finished, or a record is broken or belongs to other settings.
    """
    parser = Parser(prog="python -m experiments.collect", description=__doc__)
    parser.add_argument("experiment", help="a file of experiments/ without .yaml, or the path of one")
    parser.add_argument("--records", type=Path, help="folder of the records; default: the experiment's")
    parser.add_argument("--out", type=Path, help="folder of the tables; default: the experiment's")
    options = parser.parse_args(arguments)
    experiment = read_experiment(options.experiment)
    out = options.out or Path(experiment.tables.format(name=experiment.name))
    grid = Grid.of(experiment, options.records)
    finished, planned = collect(grid, out)
    others = strangers(grid)
    skipped = f"{len(others)}, which are no runs of it: {', '.join(others[:3])}" if others else "none"
    print(f"{finished} of {planned} runs of {experiment.name} collected in {out}")
    print(f"records used: {finished}; skipped: {skipped}{', ...' if len(others) > 3 else ''}")


def collect(grid: Grid, out: Path) -> tuple[int, int]:
    """Write all tables; returns the numbers of finished and of planned runs."""
    found = _finished(grid)
    if not found:
        name = grid.experiment.name
        raise UserError(f"no run of {name} in {grid.folder}; first run: python -m experiments.run {name}")
    ordered = sorted(found, key=lambda pair: pair[0].path)
    _write([record | {"rate": grid.rate(task)} for task, record in ordered], out)
    if (trials := grid.folder / "tuning.csv").exists() and out != grid.folder:
        write_text(out / "tuning.csv", trials.read_text(encoding="utf-8"))
    counts = {"planned": len(grid.tasks), "finished": len(found)} | _margins(grid.experiment, trials)
    write_json(out / "experiment.json", described(grid.experiment, guess.measured(grid)) | counts)
    return len(found), len(grid.tasks)


def _margins(experiment: Experiment, trials: Path) -> dict[str, Any]:
    """The margins that the search has fixed, where verdicts follow :mod:`layerpipe2.lab.judging.share_rule`."""
    if experiment.report.least_share is None:
        return {}
    if not trials.is_file():
        raise UserError(
            f"{trials} is missing, from which the margins are; run python -m experiments.tune {experiment.name}"
        )
    return {"margins": margins(pd.read_csv(trials), experiment.report.equivalence_margin_points)}


def _finished(grid: Grid) -> Finished:
    found, refused = list[tuple[Task, Record]](), list[str]()
    for task in grid.tasks:
        try:
            record = grid.record(task)
        except UserError as error:
            refused.append(str(error))
        else:
            found += [] if record is None else [(task, record)]
    if refused:
        raise UserError(f"of {len(found) + len(refused)} records {len(refused)} can't be used; the first: {refused[0]}")
    return found


def strangers(grid: Grid) -> list[str]:
    """Records among those of an experiment that belong to none of its runs, and files of single records."""
    own = {grid.folder / task.path for task in grid.tasks}
    tops = sorted({grid.folder / task.path.parts[0] for task in grid.tasks})
    others = [cell_file.place(path) for top in tops for path in cell_file.find(top) if path not in own]
    return others + [str(path) for top in tops for path in sorted(top.rglob("*.json"))]


def described(experiment: Experiment, guess_nats: dict[str, float] | None) -> dict[str, Any]:
    """What the experiment is, for readers; ``width`` and ``epochs`` are null where runs differ or have the default.

    ``report`` has the test loss of guessing by data set beside its demands, where losses are judged.
    """
    report = dict(experiment.report) | {"guess_nats": guess_nats}
    names = ("name", "published", "optimizers", "seeds", "stages", "group_sizes", "strategies")
    return {name: getattr(experiment, name) for name in names} | {
        "network": ", ".join(experiment.networks),
        "dataset": ", ".join(experiment.datasets),
        "width": experiment.settings.given.get("width"),
        "epochs": experiment.settings.given.get("epochs"),
        "report": {name: value for name, value in report.items() if value is not None},
    }


def _write(records: list[Record], out: Path) -> None:
    for name, rows in TABLES.items():
        write_csv(out / f"{name}.csv", COLUMNS[name], unique(row for record in records for row in rows(record)))
    write_csv(out / "examples.csv", COLUMNS["examples"], example_rows(records))
    write_json(out / "metrics.json", metrics(records))
    for network, table in curves(records).items():
        write_csv(out / "curves" / f"{network}.csv", list(table[0]), table)


if __name__ == "__main__":
    sys.exit(run_command("experiments.collect", main, None))
