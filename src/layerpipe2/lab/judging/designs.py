"""How the runs of an experiment are told apart, and which of them say anything: cells and groups of strategies."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from layerpipe2.strategies import find_strategy

SEQUENTIAL, STASH, LATEST = "sequential", "stash", "latest"
"""The strategies that others are compared with."""

PIPELINE = ("network", "dataset", "optimizer", "momentum", "num_stages", "convention", "rate")
"""What names a pipeline and the choice of its learning rate."""
CELL = (*PIPELINE, "group_size")
"""What a pipeline's runs share, beside strategy and seed; two group sizes may give one number of stages."""

RUN = ("network", "group_size", "strategy", "seed", "rate")
"""What names a run in the tables of one experiment: of one data set, delay law and choice of optimizers."""

ALONE = ("network", "dataset", "optimizer", "momentum")
"""What a cell has in common with the sequential training that it is compared with."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "runs": (
        *("dataset", "network", "group_size", "num_stages", "max_delay", "convention", "strategy", "seed"),
        *("optimizer", "momentum", "lr", "rate", "status", "diverged_epoch"),
        *("test_accuracy", "test_loss", "test_images"),
        *("best_val_accuracy", "final_val_accuracy", "history_copies", "device"),
    ),
    "times": (*RUN, "wall_time_s", "train_time_s", "commit"),
    "epochs": (*RUN, "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"),
    "stages": ("network", "group_size", "stage", "delay", "parameters"),
    "reconstruction": ("network", "group_size", "seed", "rate", "stage", "delay", "strategy", "relative_error", "n"),
    "examples": (
        *("dataset", "network", "optimizer", "momentum", "group_size", "rate"),
        *("strategy", "reference", "examples", "spread"),
    ),
}
"""Table of an experiment -> its columns: what ``python -m experiments.collect`` writes and pages read."""

LEARNT = 0.5
"""Share of what sequential training reaches that stash must reach for a partition to say anything about reconstruction:
of the accuracy, or of what it gains over guessing."""


def own(strategies: Iterable[str]) -> list[str]:
    """This project's own reconstructions (``pair``): not the paper's, so that no verdict on a claim rests on them."""
    return [name for name in strategies if find_strategy(name).family == "pair"]


def pipeline_aware(strategies: Iterable[str]) -> list[str]:
    """Choose those whose decay follows from the delay, over applied updates: the candidates for the paper's method."""
    rows = map(find_strategy, strategies)
    return [row.name for row in rows if row.family == "average" and row.aware and not row.raw and not row.warm]


def paired_scores(cell: pd.DataFrame, *strategies: str) -> pd.DataFrame:
    """Scores of a cell's runs, seeds by strategies, where all of these have one."""
    scores = cell.pivot(index="seed", columns="strategy", values="score")
    return scores.reindex(columns=list(dict.fromkeys(strategies))).dropna()


def rows_with(table: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with these values of columns, or with one of several."""
    for name, wanted in values.items():
        table = table[table[name].isin(wanted if isinstance(wanted, list) else [wanted])]
    return table
