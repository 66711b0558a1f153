"""The numbers that MLflow shows of a run, and of a cell over its seeds. Accuracies and shares are in per cent.

What the report says of a run or a cell comes from :mod:`layerpipe2.lab.judging.outcomes`, as there.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import pandas as pd
from mlflow.entities import Metric

from layerpipe2.lab.judging.objectives import at_the_end, best
from layerpipe2.lab.judging.outcomes import accuracy_by_group, outcome

Record = Mapping[str, Any]
TEST, WON_BACK = "final/test_accuracy", "won_back"


def epoch_metrics(row: Mapping[str, float | None], epoch: int) -> list[Metric]:
    """One epoch's values, under ``epoch/``; what isn't a finite number is left out."""
    values = {
        f"epoch/{name}": _percent(value) if name.endswith("accuracy") else value
        for name, value in row.items()
        if name != "epoch"
    }
    return _metrics(values, epoch)


def run_metrics(record: Record) -> list[Metric]:
    """The values of every epoch, and those of the end."""
    return _epochs(record) + end_metrics(record)


def end_metrics(record: Record) -> list[Metric]:
    """``final/``: at the end; ``best/``: of all epochs, on the validation part; ``cost/``: what the run took."""
    return _metrics(_end(record), record["epochs"][-1]["epoch"])


def cell_metrics(records: Sequence[Record], won_back: float | None) -> list[Metric]:
    """Means over the seeds that have a value, the spread of the test accuracy, the number of runs, the mean curves."""
    ends = [_end(record) for record in records]
    known = {name: [end[name] for end in ends if end[name] is not None] for name in ends[0]}
    values: dict[str, float | None] = {name: mean(column) for name, column in known.items() if column}  # type: ignore[type-var]
    runs = pd.DataFrame([outcome(record) | {"status": record["status"], "cell": ""} for record in records])
    (row,) = accuracy_by_group(runs.astype({"test_accuracy": float}), ["cell"]).to_dict("records")
    values |= {TEST: row["mean"], "sd/test_accuracy": row["sd"], WON_BACK: won_back}
    values |= {"n/seeds": len(records), "n/with_result": row["n"]}
    return _metrics(values, 0) + _mean_curves(records)


def study_metrics(records: Sequence[Record], objective: str) -> list[Metric]:
    """The number of trials and, where it is known what they are judged by, the values of the best one."""
    completed = [record for record in records if record["status"] == "completed"]
    chosen = best(completed, (objective,), lambda record: [at_the_end(record, objective)]) if objective else []
    return _metrics({"n/trials": len(records)}, 0) + [metric for record in chosen for metric in end_metrics(record)]


def _end(record: Record) -> dict[str, float | None]:
    reached, rows = outcome(record), record["epochs"]
    losses = [row["val_loss"] for row in rows if row["val_loss"] is not None]
    return {
        TEST: _percent(reached["test_accuracy"]),
        "final/test_loss": reached["test_loss"],
        "final/val_accuracy": _percent(reached["final_val_accuracy"]),
        "final/val_loss": rows[-1]["val_loss"],
        "final/train_accuracy": _percent(rows[-1]["train_accuracy"]),
        "final/train_loss": rows[-1]["train_loss"],
        "best/val_accuracy": _percent(reached["best_val_accuracy"]),
        "best/val_loss": min(losses, default=None),
        "cost/train_time_s": record["provenance"]["train_time_s"],
        "cost/copies": reached["history_copies"],
    }


def _mean_curves(records: Iterable[Record]) -> list[Metric]:
    """The mean over runs, at every epoch that all of them have reached."""
    curves = [{(metric.key, metric.step): metric.value for metric in _epochs(record)} for record in records]
    shared = [place for place in curves[0] if all(place in curve for curve in curves)]
    return [Metric(key, mean(curve[key, step] for curve in curves), 0, step) for key, step in shared]


def _epochs(record: Record) -> list[Metric]:
    return [metric for row in record["epochs"] for metric in epoch_metrics(row, row["epoch"])]


def _metrics(values: Mapping[str, float | None], step: int) -> list[Metric]:
    """The values that are finite numbers, with as many digits as a column has room for; their time is left at 0."""
    return [
        Metric(name, round(value, 3) if "accuracy" in name else float(f"{value:.5g}"), 0, step)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    ]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
