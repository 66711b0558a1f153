"""The families of comparisons of a campaign. Each is corrected by itself (Holm), and paired by seed.

The accuracies are those on the published test set, the same for all runs. The tests are about this set: seeds are the
units. How far another one of the same size might move a difference is shown beside it (``image_error``, an upper bound;
of a text, whole windows are the images).
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from experiments.study.params import SEQUENTIAL
from paper_figures.claims.comparisons import LEARNT
from paper_figures.claims.equivalence import Settings, compare, pairs, pipeline_aware
from paper_figures.full_scale.records import WARM
from paper_figures.statistics import holm, trend

CELL = ["optimizer", "num_stages", "strategy"]
PAIR = ["optimizer", "num_stages", "seed"]


def candidates(runs: pd.DataFrame) -> list[str]:
    """The strategies whose weights follow from the delay and the applied updates: the paper's method is among them."""
    names = list(dict.fromkeys(runs["strategy"]))
    return [*pipeline_aware(names), *(name for name in names if name == "pair")]


def reconstructions(runs: pd.DataFrame) -> list[str]:
    """Every strategy that rebuilds weights, in the order of the records; not those with warm-up."""
    names = dict.fromkeys(runs["strategy"])
    return [n for n in names if n.startswith(("ema-", "pair")) and not n.endswith(WARM)]


def untrained(runs: pd.DataFrame) -> dict[tuple[str, int], str]:
    """(optimizer, stages) -> why, where stash does not train: equal to it is no evidence there.

    It diverged in every run, or stays below half of the sequential accuracy. Where one of the two has not run yet,
    nothing is known.
    """
    mean = runs.groupby(["optimizer", "num_stages", "strategy"])["test_accuracy"].mean()
    found = {}
    for (optimizer, stages, strategy), accuracy in mean.items():
        base = mean.get((optimizer, 1, SEQUENTIAL), math.nan)
        if strategy == "stash" and math.isnan(accuracy):
            found[str(optimizer), int(stages)] = "diverged in every run"
        elif strategy == "stash" and accuracy < LEARNT * base:
            found[str(optimizer), int(stages)] = f"{accuracy:.1%} where sequential training reaches {base:.1%}"
    return found


def left_out(runs: pd.DataFrame) -> str:
    """The cells of :func:`untrained` as text; empty if there are none."""
    texts = (f"{optimizer} at {stages} stages ({why})" for (optimizer, stages), why in untrained(runs).items())
    return ", ".join(texts)


def informative(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without those of :func:`untrained` cells."""
    without = untrained(runs)
    keep = [key not in without for key in zip(runs["optimizer"], runs["num_stages"], strict=True)]
    return runs[pd.Series(keep, index=runs.index, dtype=bool)]


def against_stash(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a reconstruction equivalent to exact stashing? One family."""
    return _compared(runs, reconstructions(runs), "stash", settings)


def against_latest(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a reconstruction superior to the latest weights? One family."""
    return _compared(runs, reconstructions(runs), "latest", settings)


def latest_against_stash(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The control: can the experiment tell a strategy without any history from exact stashing? One family."""
    return _compared(runs, ["latest"], "stash", settings)


def applied_against_raw(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is averaging the applied updates superior to averaging lr x gradient? One family; rows name the former."""
    names = set(runs["strategy"])
    tables = []
    for raw in sorted(name for name in names if name.endswith("-raw") and name.removesuffix("-raw") in names):
        tables.append(pairs(runs[runs["strategy"].isin([raw, raw.removesuffix("-raw")])], raw, PAIR))
    return _family(tables, settings)


def warm_up_against_none(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a strategy superior after a warm-up with exact weights to itself without? One family."""
    names = set(runs["strategy"])
    tables = []
    for warm in sorted(name for name in names if name.endswith(WARM) and name.removesuffix(WARM) in names):
        cold = warm.removesuffix(WARM)
        tables.append(pairs(runs[runs["strategy"].isin([warm, cold])], cold, PAIR))
    return _family(tables, settings)


def stash_against_sequential(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What the delay itself costs: exact stashing against training without a pipeline. One family."""
    stash = runs[runs["strategy"] == "stash"]
    base = runs[runs["strategy"] == SEQUENTIAL]
    copies = [base.assign(num_stages=stages) for stages in sorted(stash["num_stages"].unique())]
    return _family([pairs(pd.concat([stash, *copies]), SEQUENTIAL, PAIR)], settings)


def everywhere(
    runs: pd.DataFrame, names: list[str], reference: str, hypothesis: str, settings: Settings
) -> dict[str, float]:
    """Strategy -> p-value that the hypothesis holds at *every* optimizer and number of stages, Holm over strategies.

    The largest p-value of its cells tests that (intersection-union test), whatever their number; so this has the power
    that the families above lose to their size. Where a strategy diverged alone the p-value is 1; where fewer than two
    seeds can be compared because the reference diverged alone, superiority has the sign test's.
    """
    largest = []
    for name in names:
        paired = pairs(runs[runs["strategy"].isin([name, reference])], reference, PAIR)
        single = [compare(cell, CELL, ["seed"], settings).iloc[0] for _, cell in paired.groupby(CELL[:2])]
        largest.append(max((_cell_p(row, hypothesis) for row in single), default=1.0))
    return dict(zip(names, holm(largest).tolist(), strict=True))


def _cell_p(row: pd.Series, hypothesis: str) -> float:
    if row["lost"]:
        return 1.0
    if row["n"] < 2:
        return float(0.5 ** row["won"]) if hypothesis == "superior" and row["n"] == 0 else 1.0
    return float(row[f"p_{hypothesis}"])


def trends(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """How the difference to stash changes per additional stage; 1 - level intervals over seeds, not corrected."""
    rows: list[dict[str, Any]] = []
    paired = pairs(runs, "stash", PAIR)
    for (optimizer, strategy), group in paired.groupby(["optimizer", "strategy"], sort=False):
        if group["num_stages"].nunique() > 1:
            found = trend(group["num_stages"], group["difference"], group["seed"], level=settings.level)
            rows.append({"optimizer": optimizer, "strategy": strategy, "slope": found.slope, "low": found.low,
                         "high": found.high, "p": found.p, "n": found.n})  # fmt: skip
    return pd.DataFrame(rows, columns=["optimizer", "strategy", "slope", "low", "high", "p", "n"])


def _compared(runs: pd.DataFrame, names: list[str], reference: str, settings: Settings) -> pd.DataFrame:
    return _family([pairs(runs[runs["strategy"].isin([*names, reference])], reference, PAIR)], settings)


def _family(tables: list[pd.DataFrame], settings: Settings) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=[*CELL, "n", "lost", "won", "mean", "sd", "low", "high", "image_error",
                                     "p_equivalent", "p_superior", "outcome"])  # fmt: skip
    return compare(pd.concat(filled, ignore_index=True), CELL, ["seed"], settings)
