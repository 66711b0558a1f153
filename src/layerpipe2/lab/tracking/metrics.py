"""The numbers that MLflow shows of a run, and of a cell over its seeds. Accuracies and shares are in per cent."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

Record = Mapping[str, Any]
Values = Mapping[str, float]

TEST, BEST = "final/test_accuracy", "best/val_accuracy"
WON_BACK = "won_back"
_SPREAD = {TEST: "sd/test_accuracy", "final/test_loss": "sd/test_loss", BEST: "sd/best_val_accuracy"}


class Point(NamedTuple):
    """A value of a metric, at an epoch from 0."""

    name: str
    value: float
    step: int


def of_epoch(row: Mapping[str, float | None], epoch: int) -> list[Point]:
    """One epoch's values, under ``epoch/``; what isn't a finite number is left out."""
    return [
        Point(f"epoch/{name}", shown(name, value), epoch)
        for name, value in row.items()
        if name != "epoch" and value is not None and math.isfinite(value)
    ]


def of_epochs(record: Record) -> list[Point]:
    """Those of every epoch."""
    return [point for row in record["epochs"] for point in of_epoch(row, row["epoch"])]


def of_end(record: Record) -> list[Point]:
    """``final/``: at the end; ``best/``: of all epochs, on the validation part; ``cost/``: what the run took."""
    rows, last = record["epochs"], record["epochs"][-1]
    values = {f"final/{name}": last[name] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    values |= {f"final/test_{name}": (record["test"] or {}).get(name) for name in ("loss", "accuracy")}
    for name, best in (("val_accuracy", max), ("val_loss", min)):
        values[f"best/{name}"] = best((row[name] for row in rows if row[name] is not None), default=None)
    values |= {"cost/train_time_s": record["provenance"]["train_time_s"], "cost/copies": record["history_copies"]}
    found = {name: shown(name, value) for name, value in values.items() if value is not None}
    return [Point(name, value, last["epoch"]) for name, value in found.items()]


def of_cell(runs: Sequence[Values]) -> dict[str, float]:
    """Means and standard deviations over the runs of a cell that have a value, and how many runs there are."""
    names = sorted({name for run in runs for name in run if not name.startswith("epoch/")})
    columns = {name: [run[name] for run in runs if name in run] for name in names}
    found = {name: mean(column) for name, column in columns.items()}
    found |= {sd: stdev(columns[name]) for name, sd in _SPREAD.items() if len(columns.get(name, ())) > 1}
    found = {name: float(f"{value:.5g}") for name, value in found.items()}
    return found | {"n/seeds": len(runs), "n/with_result": len(columns.get(TEST, ()))}


def mean_curves(runs: Iterable[Sequence[Point]]) -> list[Point]:
    """The mean over runs, at every epoch that all of them have reached."""
    curves = [{(name, step): value for name, value, step in points} for points in runs]
    shared = [place for place in curves[0] if all(place in curve for curve in curves)]
    return [Point(name, mean(curve[name, step] for curve in curves), step) for name, step in shared]


def shown(name: str, value: float) -> float:
    """An accuracy, in [0, 1] in records, as per cent; with the digits that a column has room for."""
    return round(100 * value, 3) if name.endswith("accuracy") else float(f"{value:.5g}")
