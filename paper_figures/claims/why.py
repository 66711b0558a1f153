"""Why some cells need a weight history: what predicts it before a training, and the rule of thumb that follows.

A cell *needs* a history if the latest weights cost more than the margin against exact stashing, by the mean over its
seeds; a run that diverged counts as guessing. Only cells in which exact stashing trains are looked at. The rule is made
on the coarse searches and tried on those confirmed cells, which did not make it, that tell whether they need one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from layerpipe2.lab.judging.designs import LATEST, PIPELINE
from layerpipe2.strategies import find_strategy
from paper_figures.claims.evidence import assay
from paper_figures.claims.rule import Rule, strategy_of
from paper_figures.records.evidence import screens
from paper_figures.records.training import Records

AVERAGE = "ema-span"
"""The reconstruction that is measured beside the latest weights."""
SOURCE = "paper_figures/out/evidence/evidence.md"
GIVEN = "lr"
"""What needs no measurement, for comparison; no rule rests on it, as optimizers have rates of different size."""
_WORDS = {
    GIVEN: "the learning rate (nothing is measured)",
    "drift": "the drift of the weights over their delay (as a share of their norm)",
    "update_correlation": "the cosine of successive updates",
    "error": "the error of {whose} weights, relative to the drift",
    "alignment": "the cosine between the gradient of {whose} weights and the exact one",
    "norm_ratio": "the norm of the gradient of {whose} weights over that of the exact one",
    "gradient_error": "the relative error of the gradient of {whose} weights",
    "curvature": "the largest curvature of the loss",
    "step": "learning rate x curvature",
    "margin": "learning rate x curvature over the largest stable one, wherever the curvature is",
    "shared_margin": "learning rate x curvature over the largest stable one, where the curvature is",
}


def meaning(quantity: str) -> str:
    """A key of :func:`experiments.predicting.signs.predictors` in words."""
    strategy = strategy_of(quantity)
    whose = "the latest" if strategy == LATEST else f"{find_strategy(strategy).label}'s"
    return _WORDS[quantity.split(".")[0]].format(whose=whose) + (
        " in the worst stage" if quantity.endswith(".worst") else ""
    )


def of_cells(found: Mapping[str, Records], measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What was measured before and what came out, a row per cell.

    Returns:
        Columns :data:`PIPELINE`; cell (name), experiment, screened; cost: accuracy (or loss) that the latest weights
        lose, in margins; needs: whether that is more than 1; share: what :data:`AVERAGE` wins back; and the measured
        quantities.
    """
    known = {name: measured[name] for name in found if name in measured}
    coarse = screens(dict(found))
    tables = []
    for name, table in known.items():
        searched = name in coarse
        tables.append(_joined(found[name], table, searched).assign(experiment=name, screened=searched))
    return pd.concat([t for t in tables if len(t)] or [pd.DataFrame()], ignore_index=True)


def _joined(records: Records, measured: pd.DataFrame, coarse: bool) -> pd.DataFrame:
    judged = assay(records)
    costs = judged.costs[judged.costs["trained"].astype(bool)]
    if not coarse:
        costs = costs[costs["sensitive"] | costs["needless"]]
    costs = costs.assign(cost=costs["inconsistency"] / costs["margin"])[[*PIPELINE, "cell", "cost"]]
    share = judged.rules.loc[judged.rules["strategy"] == AVERAGE, [*PIPELINE, "share"]]
    keys = list(PIPELINE)
    # The one rate is that of stash, unless stash has runs with another one, which was given.
    stash = measured[measured["rate"] == "tuned"].assign(rate="common")
    both = pd.concat([measured, stash]).drop_duplicates(keys)
    joined = costs.assign(needs=costs["cost"] > 1).merge(share, on=keys, how="left").merge(both, on=keys)
    return joined[joined["diverged"] == 0].drop(columns="diverged")


def quantities(cells: pd.DataFrame) -> list[str]:
    """What was measured, and :data:`GIVEN`; without what is the same in all cells."""
    return [name for name in cells if name.split(".")[0] in _WORDS and cells[name].nunique() > 1]


@dataclass(frozen=True)
class Cut:
    """A quantity as a test of ``needs``: the best threshold, midway between two cells that follow each other.

    Attributes:
        auc: area under the ROC curve, at least 0.5.
        above: whether the cells that need a history lie above.
        balanced: mean of the shares that are right among those that need one and those that don't.
    """

    auc: float
    above: bool
    threshold: float
    balanced: float


def cut(values: ArrayLike, needs: ArrayLike) -> Cut | None:
    """The best cut, of equals the one that drops the history least often; None if all cells are alike."""
    x, positive = np.asarray(values, dtype=np.float64), np.asarray(needs, dtype=bool)
    x, positive = x[~np.isnan(x)], positive[~np.isnan(x)]
    ends = np.unique(x)
    if not 0 < positive.sum() < len(positive) or len(ends) < 2:
        return None
    u = stats.mannwhitneyu(x[positive], x[~positive], method="asymptotic").statistic
    auc = float(u) / (positive.sum() * (~positive).sum())
    above = auc >= 0.5
    middles = (ends[1:] + ends[:-1]) / 2
    right = [_balanced((x >= middle) == above, positive) for middle in middles]
    careful = np.lexsort((middles if above else -middles, -np.asarray(right)))[0]
    return Cut(max(auc, 1 - auc), above, float(middles[careful]), right[careful])


def _balanced(said: ArrayLike, positive: ArrayLike) -> float:
    same, needs = np.asarray(said) == positive, np.asarray(positive)
    return float(same[needs].mean() + same[~needs].mean()) / 2


def ranking(cells: pd.DataFrame) -> pd.DataFrame:
    """How well each quantity predicts which cells need a history, the best first.

    Returns:
        Columns quantity, n (cells), those of :class:`Cut`; rho_cost: Spearman's correlation with the cost; rho_share:
        with what the average wins back where a history is needed, and n_share, how many cells that are.
    """
    rows = []
    for name in quantities(cells):
        mine = cells[cells[name].notna()]
        found = cut(mine[name], mine["needs"])
        if found is not None:
            lost = mine[mine["needs"] & mine["share"].notna()]
            rho = {"rho_cost": _spearman(mine[name], mine["cost"]), "rho_share": _spearman(lost[name], lost["share"])}
            row = {"quantity": name, "n": len(mine), "n_share": len(lost)}
            rows.append(row | vars(found) | rho)
    columns = ["quantity", "n", "n_share", *Cut.__dataclass_fields__, "rho_cost", "rho_share"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["auc", "balanced"], ascending=False, kind="stable", ignore_index=True
    )


def _spearman(x: pd.Series, y: pd.Series) -> float:
    enough = x.nunique() > 1 and y.nunique() > 1
    return float(stats.spearmanr(x, y).statistic) if enough else float("nan")


def fit(cells: pd.DataFrame) -> Rule | None:
    """The rule of thumb from the screened cells alone; None if they are all alike.

    Of what was measured in all of these cells it takes the quantity with the largest area under the ROC curve (of
    equals the one with the better threshold), and its best threshold, with six significant digits.
    """
    mine = cells[cells["screened"]] if len(cells) else cells
    table = ranking(mine)
    table = table[(table["quantity"] != GIVEN) & (table["n"] == len(mine))]
    if table.empty:
        return None
    best = table.iloc[0]
    return Rule(
        quantity=best["quantity"],
        meaning=meaning(best["quantity"]),
        threshold=float(f"{best['threshold']:.6g}"),
        drop_above=not best["above"],
        cells=len(mine),
        source=SOURCE,
    )


def says(cells: pd.DataFrame, rule: Rule) -> pd.Series:
    """What the rule says of every cell: ``drop``, ``keep``, or ``unknown`` if its quantity could not be measured."""
    said = [rule.decide(None if pd.isna(value) else value) for value in cells[rule.quantity]]
    return pd.Series(said, index=cells.index, dtype=object)


def says_of_others(cells: pd.DataFrame) -> pd.Series:
    """What is said of every cell by the rule that all the others make (cross-validation, leaving one out)."""
    rules = {place: fit(cells.drop(index=place)) for place in cells.index}
    said = {p: "unknown" if rule is None else says(cells.loc[[p]], rule).item() for p, rule in rules.items()}
    return pd.Series(said, index=cells.index, dtype=object)


def right(cells: pd.DataFrame, said: pd.Series) -> tuple[int, int]:
    """In how many cells that is said which came out, and of how many."""
    return int((said == cells["needs"].map({True: "keep", False: "drop"})).sum()), len(cells)


def dropped(cells: pd.DataFrame, said: pd.Series) -> tuple[int, int]:
    """In how many of these cells a history would be dropped that is needed, and in how many one would be dropped."""
    drop = said == "drop"
    return int((drop & cells["needs"].astype(bool)).sum()), int(drop.sum())


def directions(cells: pd.DataFrame) -> tuple[int, int, float, float]:
    """Whether the average restores the direction of the gradient in the screened cells that need a history.

    Returns:
        In how many its gradient is better aligned than that of the latest weights, and of how many; the median
        alignment of the latest weights and of the average.
    """
    mine = cells[cells["screened"].astype(bool) & cells["needs"]]
    latest, average = (mine[f"alignment.{name}"] for name in (LATEST, AVERAGE))
    return int((average > latest).sum()), len(mine), float(latest.median()), float(average.median())
