"""What a run has reached, and what the runs of a cell have: the same numbers in tables, report and MLflow."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def outcome(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The end of a run, of its record: accuracies in [0, 1], losses in nats; None where there is no such number."""
    accuracies = [row["val_accuracy"] for row in record["epochs"] if row["val_accuracy"] is not None]
    return {
        **{f"test_{name}": (record["test"] or {}).get(name) for name in ("accuracy", "loss", "images")},
        "best_val_accuracy": max(accuracies, default=None),
        "final_val_accuracy": record["epochs"][-1]["val_accuracy"],
        "history_copies": record["history_copies"],
    }


def accuracy_by_group(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Final test accuracy of the completed runs of every group; diverged runs are counted.

    Args:
        runs: columns ``test_accuracy`` (in [0, 1]), ``status`` and those of ``by``.
        by: the columns that name a group.

    Returns:
        Columns mean and sd (per cent; the sample standard deviation, absent for one run), min, max, n (completed
        runs), diverged (runs); the groups are its index.
    """
    lost = runs["status"] == "diverged"
    return (
        runs.assign(lost=lost, percent=(100 * runs["test_accuracy"]).mask(lost))
        .groupby(list(by))
        .agg(
            mean=("percent", "mean"),
            sd=("percent", lambda percent: percent.std()),  # groupby's own differs in the last digit
            min=("percent", "min"),
            max=("percent", "max"),
            n=("percent", "count"),
            diverged=("lost", "sum"),
        )
    )
