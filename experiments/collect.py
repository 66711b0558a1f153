"""Collect an experiment's records into flat tables; figures, tables and verdicts are functions of these alone.

Every experiment gets ``experiment.json``, which says what it is and how much of it is finished, ``runs.csv`` and
``epochs.csv``. Where learning rates are tried there are ``tuning.csv``, every short run, and ``chosen.csv``, the rate
of every cell and whether it lies at the ``edge`` of those tried. Otherwise there are ``stages.csv``,
``reconstruction.csv``, ``times.csv``, ``examples.csv``, ``metrics.json`` for `dvc metrics` and ``curves/*.csv`` for
`dvc plots`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cells import Cell, Task
from experiments.examples import COLUMNS as EXAMPLES
from experiments.examples import example_rows
from experiments.grid import Grid
from experiments.schema import Experiment, read_experiment
from experiments.tables import TABLES, Row, curves, epoch_rows, metrics, run_rows, unique, write_csv
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.runs.records import Record, write_json, write_text

Finished = list[tuple[Task, Record]]
CHOSEN = ("optimizer", "num_stages", "strategy", "lr", "edge")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, write the tables.

    Raises:
        UserError: if no final run is finished, or a record is broken or belongs to other settings.
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
    skipped = f"{len(others)}, which are no runs of it: {', '.join(map(str, others[:3]))}" if others else "none"
    print(f"{finished} of {planned} runs of {experiment.name} collected in {out}")
    print(f"records used: {finished}; skipped: {skipped}{', ...' if len(others) > 3 else ''}")


def collect(grid: Grid, out: Path) -> tuple[int, int]:
    """Write all tables; returns the numbers of finished and of planned runs, tuning included."""
    found = _finished(grid)
    final = [(task, record) for task, record in found if task.final]
    if not final:
        name = grid.experiment.name
        raise UserError(f"no final run of {name} in {grid.folder}; first run: python -m experiments.run {name}")
    if grid.experiment.tries_rates:
        _write_tuned(grid, final, [(task, record) for task, record in found if not task.final], out)
    else:
        ordered = sorted(final, key=lambda pair: pair[0].path)
        _write_untuned([record | {"rate": grid.rate(task)} for task, record in ordered], out)
        if (trials := grid.folder / "tuning.csv").exists() and out != grid.folder:
            write_text(out / "tuning.csv", trials.read_text(encoding="utf-8"))
    counts = {"planned": len(grid.tasks), "finished": len(found)}
    write_json(out / "experiment.json", described(grid.experiment) | counts)
    return len(found), len(grid.tasks)


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


def strangers(grid: Grid) -> list[Path]:
    """Records among those of an experiment that belong to none of its runs."""
    own = {grid.folder / task.path for task in grid.tasks}
    tops = sorted({task.path.parts[0] for task in grid.tasks})
    return [path for top in tops for path in sorted((grid.folder / top).rglob("*.json")) if path not in own]


def described(experiment: Experiment) -> dict[str, Any]:
    """What the experiment is, for readers; ``width`` and ``epochs`` are null where runs differ or have the default."""
    names = ("name", "published", "optimizers", "seeds", "stages", "group_sizes", "strategies")
    warm_up = experiment.warm_up
    return {name: getattr(experiment, name) for name in names} | {
        "network": ", ".join(experiment.networks),
        "dataset": ", ".join(experiment.datasets),
        "width": experiment.settings.given.get("width"),
        "epochs": experiment.settings.given.get("epochs"),
        "warm_up": None if warm_up is None else dict(warm_up),
        "report": {name: value for name, value in experiment.report if value is not None},
    }


def _write_untuned(records: list[Record], out: Path) -> None:
    for name, (columns, rows) in TABLES.items():
        write_csv(out / f"{name}.csv", columns, unique(row for record in records for row in rows(record)))
    write_csv(out / "examples.csv", EXAMPLES, example_rows(records))
    write_json(out / "metrics.json", metrics(records))
    for network, table in curves(records).items():
        write_csv(out / "curves" / f"{network}.csv", list(table[0]), table)


def _write_tuned(grid: Grid, final: Finished, tuning: Finished, out: Path) -> None:
    rated = [(task, record | {"rate": "tuned"}) for task, record in final]
    tables = {
        "runs": [row | _key(t.cell, strategy=t.strategy) for t, record in rated for row in run_rows(record)],
        "epochs": [row | _key(t.cell, strategy=t.strategy) for t, record in rated for row in epoch_rows(record)],
        "tuning": [_tuning_row(task, record) for task, record in tuning],
        "chosen": [
            _key(cell) | {"lr": rate, "edge": rate in (min(grid.rates(cell)), max(grid.rates(cell)))}
            for cell in grid.cells
            if (rate := grid.best_rate(cell)) is not None
        ],
    }
    for name, rows in tables.items():
        plain = [{column: value for column, value in row.items() if column != "rate"} for row in rows]  # always its own
        write_csv(out / f"{name}.csv", list(plain[0]) if plain else CHOSEN, plain)


def _key(cell: Cell, stages: str = "num_stages", strategy: str | None = None) -> Row:
    return {"optimizer": cell.optimizer, stages: cell.stages, "strategy": strategy or cell.strategy}


def _tuning_row(task: Task, record: Record) -> Row:
    reached = record["epochs"][-1]["val_accuracy"] if record["status"] == "completed" else None
    return _key(task.cell, "stages") | {"lr": task.config.lr, "val_accuracy": reached}


if __name__ == "__main__":
    sys.exit(run_command("experiments.collect", main, None))
