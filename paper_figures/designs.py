"""How the runs of an experiment are told apart, and which of them say anything: pipelines and groups of strategies."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerpipe2.history import find_strategy

SEQUENTIAL, STASH, LATEST = "sequential", "stash", "latest"
"""The strategies that others are compared with."""

LEARNT = 0.5
"""Share of what sequential training reaches that stash must reach for a partition to say anything about reconstruction:
of the accuracy, or of what it gains over guessing."""


@dataclass(frozen=True)
class Design:
    """Which columns tell the runs of an experiment apart, beside strategy and seed.

    Attributes:
        baseline: column within whose values the sequential runs are the baseline.
        partition: columns that name a pipeline, ``baseline`` among them.
    """

    baseline: str
    partition: tuple[str, ...]

    @property
    def cell(self) -> list[str]:
        """One comparison per pipeline and strategy."""
        return [*self.partition, "strategy"]

    @property
    def pair(self) -> list[str]:
        """What two runs that are compared have in common."""
        return [*self.partition, "seed"]


BY_OPTIMIZER = Design("optimizer", ("optimizer", "num_stages"))
"""Of an experiment on one network, whose learning rates were chosen."""


def untrained(runs: pd.DataFrame, design: Design) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Pipelines where stash does not train, so that being equal to it is no evidence.

    It diverged in every run, or stays below :data:`LEARNT` of the sequential accuracy. Where one of the two has not run
    yet, nothing is known.

    Returns:
        Values of the columns ``design.partition`` -> mean accuracy of stash (absent if all diverged) and of sequential
        training (absent if there is none).
    """
    mean = runs.groupby(design.cell)["test_accuracy"].mean().reset_index()
    base = mean[mean["strategy"] == SEQUENTIAL].set_index(design.baseline)["test_accuracy"]
    found = {}
    for row in mean[(mean["strategy"] == STASH) & (mean["num_stages"] > 1)].to_dict("records"):
        reached, whole = row["test_accuracy"], base.get(row[design.baseline], math.nan)
        if math.isnan(reached) or reached < LEARNT * whole:
            found[tuple(row[column] for column in design.partition)] = (reached, whole)
    return found


def informative(table: pd.DataFrame, runs: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The rows of a table with the columns ``design.partition`` whose pipeline is not :func:`untrained`."""
    without = untrained(runs, design)
    keep = [key not in without for key in zip(*(table[column] for column in design.partition), strict=True)]
    return table[pd.Series(keep, index=table.index, dtype=bool)]


def own(strategies: Iterable[str]) -> list[str]:
    """This project's own reconstructions (``pair``): not the paper's, so that no verdict on a claim rests on them."""
    return [name for name in strategies if find_strategy(name).family == "pair"]


def pipeline_aware(strategies: Iterable[str]) -> list[str]:
    """Those whose decay follows from the delay, over applied updates: the candidates for the paper's method."""
    rows = map(find_strategy, strategies)
    return [row.name for row in rows if row.family == "average" and row.aware and not row.raw and not row.warm]
