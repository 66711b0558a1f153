"""Measure what may predict which cells need a weight history: ``nice python -m experiments.predictors screen-mlp``.

Every cell of an experiment (network, data, optimizer, partition) that has a record of exact stashing gets a row of
``predictors.csv`` beside its records: what :func:`experiments.predicting.measure.measure` finds with the settings of
that run, of which it knows nothing else. Rows that are there already stay, unless the learning rate has changed.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

from experiments.processes import training_server, workers

if __name__ == "__main__":
    training_server()  # what it imports takes as long as the imports below: both go on at once

from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import read_experiment
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.lab.judging.designs import PIPELINE, STASH
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import Row, write_csv
from layerpipe2.lab.tuning import MOST_JOBS

FILE = "predictors.csv"
STRATEGY = "ema-span"
"""What is measured beside the latest weights: the rule that every coarse search has."""
_MORE = ("lr", "diverged")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells that have no row yet.

    Raises:
        UserError: if the records are of other settings, or a cell's training is too short to be measured.
    """
    parser = Parser(prog="python -m experiments.predictors", description=__doc__)
    parser.add_argument("experiment", help="a file of experiments/ without .yaml, or the path of one")
    parser.add_argument("--out", type=Path, help="folder of the records; default: the experiment's")
    parser.add_argument("--jobs", type=within(int, 1, MOST_JOBS), default=1, help="processes; default: %(default)s")
    options: argparse.Namespace = parser.parse_args(arguments)
    grid = Grid.of(read_experiment(options.experiment), options.out)
    found, new = measure(grid, options.jobs)
    print(f"{found} cells of {grid.experiment.name} in {grid.folder / FILE}, {new} of them new")


def measure(grid: Grid, jobs: int = 1) -> tuple[int, int]:
    """Bring the table up to date, row by row; returns the numbers of its rows and of those that are new."""
    cells = _cells(grid)
    known = {key: row for row in _rows(grid.folder / FILE) if (key := _key(row)) in cells}
    new = [key for key in cells if key not in known]
    if new:
        with workers(min(jobs, len(new))) as pool:
            done = {pool.submit(_measured, cells[key][1]): key for key in new}
            for future in as_completed(done):
                known[done[future]] = cells[done[future]][0] | future.result()
                _write(grid.folder / FILE, [known[key] for key in cells if key in known])
    return len(known), len(new)


def _cells(grid: Grid) -> dict[tuple[str, ...], tuple[Row, RunConfig]]:
    """Key -> the first columns and the settings of every cell, those of the first seed's run of stash."""
    found = {}
    for task in grid.tasks:
        first = task.config.seed == grid.experiment.seeds[0]
        if first and task.cell.strategy == STASH and grid.record(task) is not None:
            config = grid.ready(task)
            row = {name: getattr(config, name, None) for name in PIPELINE}
            row |= {"num_stages": task.cell.stages, "rate": grid.rate(task), "lr": config.lr}
            found[_key(row)] = row, config
    return found


def _measured(config: RunConfig) -> Row:
    """Measure a cell; a worker calls it."""
    from experiments.predicting.measure import measure as measure_signs
    from experiments.predicting.signs import predictors
    from layerpipe2.lab.runs.worker import load_once

    signs = measure_signs(config, [STRATEGY], data=load_once(config.dataset, config.data_root))
    values = {name: float(f"{value:.9g}") for name, value in predictors(signs).items()}
    return {"diverged": int(signs.diverged is not None)} | values


def _key(row: Row) -> tuple[str, ...]:
    """Return what names a row, the same of one that was read and of one that was made."""
    return tuple(str(row[name]) for name in (*PIPELINE, "lr"))


def _rows(path: Path) -> list[Row]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def _write(path: Path, rows: list[Row]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    write_csv(path, dict.fromkeys([*PIPELINE, *_MORE, *columns]), rows)


if __name__ == "__main__":
    sys.exit(run_command("experiments.predictors", main, None))
