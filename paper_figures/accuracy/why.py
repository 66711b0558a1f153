"""Why some cells need a weight history: what predicts it before a training, and the rule of thumb that follows.

A cell *needs* a history if the latest weights cost more than the margin against exact stashing, by the mean over its
seeds; a run that diverged counts as guessing. Only cells in which exact stashing trains are looked at. The rule is made
on the coarse searches and tried on those confirmed cells, which did not make it, that tell whether they need one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from scipy import stats

from layerpipe2.lab.judging.designs import LATEST, PIPELINE
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.accuracy.assay import Assay
from paper_figures.accuracy.evidence import SCREEN, evidence
from paper_figures.read import TableForm, read_table
from paper_figures.text import network_label, number, optimizer_label

Saying = Literal["drop", "keep", "unknown"]


@dataclass(frozen=True)
class Rule:
    """On one side of ``threshold`` the history can be dropped, on the other one is to be kept.

    Attributes:
        quantity: a key of :func:`experiments.predicting.signs.predictors`.
        meaning: the quantity in words.
        threshold: where it turns.
        drop_above: whether the history can be dropped from the threshold on; otherwise, below it.
        cells: how many cells (network, data, optimizer, stages) it was fitted on.
        source: where those stand.
    """

    quantity: str
    meaning: str
    threshold: float
    drop_above: bool
    cells: int
    source: str

    def decide(self, value: float | None) -> Saying:
        """What a measured value says; ``None``: it could not be measured."""
        if value is None:
            return "unknown"
        return "drop" if (value >= self.threshold) == self.drop_above else "keep"


def strategy_of(quantity: str) -> str:
    """The strategy whose weights a quantity is about; of those of the whole training, ``latest``."""
    return quantity.removesuffix(".worst").partition(".")[2] or "latest"


RULE = Rule(
    quantity="alignment.latest.worst",
    meaning="the cosine between the gradient of the latest weights and the exact one in the worst stage",
    threshold=0.990854,
    drop_above=True,
    cells=46,
    source="paper_figures/out/evidence/why.md",
)
"""The rule in use: what ``python -m paper_figures.build rule`` prints, from the coarse searches of the evidence."""


AVERAGE = "ema-span"
"""The reconstruction that is measured beside the latest weights."""


SOURCE = "paper_figures/out/evidence/why.md"


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


def of_cells(assays: Mapping[str, Assay], measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What was measured before and what came out, a row per cell.

    Returns:
        Columns :data:`PIPELINE`; cell (name), experiment, screened; cost: accuracy (or loss) that the latest weights
        lose, in margins; needs: whether that is more than 1; share: what :data:`AVERAGE` wins back; and the measured
        quantities.
    """
    known = {name: measured[name] for name in assays if name in measured}
    tables = []
    for name, table in known.items():
        searched = name.startswith(SCREEN)
        tables.append(_joined(assays[name], table, searched).assign(experiment=name, screened=searched))
    return pd.concat([t for t in tables if len(t)] or [pd.DataFrame()], ignore_index=True)


def _joined(judged: Assay, measured: pd.DataFrame, coarse: bool) -> pd.DataFrame:
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


_PREDICTORS = TableForm((*PIPELINE, "lr", "diverged"), ("lr", "diverged"), PIPELINE)


def predictors(folder: Path) -> dict[str, pd.DataFrame]:
    """Name -> what was measured of an experiment's cells before their training, where that was done.

    Raises:
        UserError: if a table is broken.
    """
    paths = sorted(folder.glob("*/predictors.csv"))
    remedy = "delete it, and run: python -m experiments.predictors"
    return {path.parent.name: read_table(path, _PREDICTORS, f"{remedy} {path.parent.name}") for path in paths}


@evidence.value
def cells(assays: Mapping[str, Assay], folder: Path) -> pd.DataFrame:
    """What was measured before, and what came out; no rows unless it was measured of searches."""
    known = of_cells(assays, predictors(folder))
    return known if len(known) and known["screened"].any() else known.head(0)


@evidence.value
def why(cells: pd.DataFrame) -> dict[str, Any] | None:
    """What the section on predictors tells; None if nothing was measured."""
    if not len(cells):
        return None
    restored, needing, latest, average = directions(cells)
    searched = cells["screened"].astype(bool)
    screened, confirmed = cells[searched], cells[~searched]
    fitted, anew = says(screened, RULE), says_of_others(screened)
    said = says(confirmed, RULE)
    return {
        "table": readable(ranking(screened)),
        "rule": RULE,
        "fitted": _of(right(screened, fitted)),
        "anew": _of(right(screened, anew)),
        "always": max(needing, len(screened) - needing),
        "wrong": _of(dropped(screened, fitted)),
        "wrong_anew": _of(dropped(screened, anew)),
        "tried": _tried(confirmed, said),
        "same": said.iloc[0] if said.nunique() == 1 else None,
        "screened": len(screened),
        "needing": needing,
        "restored": restored,
        "latest": f"{latest:.3f}",
        "average": f"{average:.3f}",
    }


def _of(counts: tuple[int, int]) -> str:
    return "{} of {}".format(*counts)


def _tried(cells: pd.DataFrame, said: pd.Series) -> str:
    """How often the rule is right in the confirmed cells, in words; empty if there are none."""
    words = {"common": "with one learning rate for all", "tuned": "with each strategy's own rate"}
    parts = {text: cells["rate"] == rate for rate, text in words.items()}
    return " and in ".join(f"{_of(right(cells[m], said[m]))} {text}" for text, m in parts.items() if m.any())


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A row per quantity for readers, from :func:`ranking`."""
    rows = [
        {
            "measured over 100 updates": f"{meaning(row['quantity'])} (`{row['quantity']}`)",
            "cells": row["n"],
            "area under ROC": number(2)(row["auc"]),
            "a history is needed": f"{'from' if row['above'] else 'below'} {row['threshold']:.4g}",
            "balanced accuracy": number(2)(row["balanced"]),
            "rank correlation with the cost": _signed(row["rho_cost"]),
            "with the share won back": f"{_signed(row['rho_share'])} (n={row['n_share']})",
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


def _signed(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:+.2f}"


_OPTIMIZERS = ("SGD", "momentum", "AdamW")


_MARKERS = "osD^vPXph*<>"


_SCREENED: dict[str, Any] = {"color": "#999999", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.4}


_CONFIRMED: dict[str, Any] = {"color": "black", "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.4}


_HOLLOW: dict[str, Any] = {"color": "#222222", "markerfacecolor": "white"}


_LABEL = 42
"""Letters of a line below a panel."""


_LINE: dict[str, Any] = {"color": "#666666", "linewidth": 0.8, "linestyle": (0, (4, 2))}


@style.drawn
def draw(cells: pd.DataFrame, rule: Rule) -> Figure:
    """Cost in margins against the rule's quantity (of a cosine, what it lacks of 1), a panel per optimizer.

    Args:
        cells: from :func:`of_cells`.
        rule: whose quantity and threshold are shown.
    """
    shown = cells[cells[rule.quantity].notna()]
    how = [optimizer_label(row.optimizer, row.momentum).split()[0] for row in shown.itertuples()]
    shown = shown.assign(x=_place(shown[rule.quantity], rule), how=how)
    marker = dict(zip(sorted(shown["network"].unique()), _MARKERS, strict=False))
    names = [name for name in _OPTIMIZERS if name in set(how)]
    figure, axes = style.canvas(3.5, len(names), sharex=True, sharey=True)
    for name, axis in zip(names, axes.flat, strict=True):
        _scatter(axis, shown[shown["how"] == name], marker)
        axis.axhline(1, **_LINE)
        axis.axvline(_place(rule.threshold, rule), **_LINE)
        axis.set(title=name, xscale="log")
        axis.set_yscale("symlog", linthresh=1, linscale=0.7)
    axes[0, 0].set(
        ylabel="cost of 'latest' (margins;\nlinear up to 1, then log)",
        ylim=(None, max(10.0, 2 * shown["cost"].max())),
    )
    axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles: list[Artist] = [
        style.handle(network_label(n), marker=m, linestyle="", **_HOLLOW) for n, m in marker.items()
    ]
    for label, look in (("coarse search", _SCREENED), ("confirmed", _CONFIRMED)):
        handles.append(Patch(facecolor=look["color"], label=label))
    handles.append(style.handle("one margin; rule's threshold", **_LINE))
    style.legend(figure, handles, 5, "Can the cost of going without old weights be told before training?")
    for axis in axes.flat:
        axis.set_xlabel(fill(_label(rule), _LABEL), fontsize=7)
    style.note(figure, _note(shown, rule))
    return figure


def _scatter(axis: Any, cells: pd.DataFrame, marker: Mapping[str, str]) -> None:
    for row in cells.sort_values("screened", ascending=False, kind="stable").to_dict("records"):
        look = _SCREENED if row["screened"] else _CONFIRMED
        axis.plot(row["x"], row["cost"], linestyle="", marker=marker[row["network"]], **look)


def _place(value: Any, rule: Rule) -> Any:
    return np.maximum(1 - value, 1e-9) if rule.quantity.startswith("alignment.") else value


def _label(rule: Rule) -> str:
    lacks = "1 - " if rule.quantity.startswith("alignment.") else ""
    return f"{lacks}{rule.meaning}"


def _note(shown: pd.DataFrame, rule: Rule) -> str:
    coarse = int(shown["screened"].sum())
    left = rule.drop_above == rule.quantity.startswith("alignment.")
    return (
        "Shape: network. A point per cell (network, data, optimizer, stages) in which exact stashing trains: "
        f"{coarse} in coarse\nsearches (grey), {len(shown) - coarse} confirmed with more seeds (black); means over "
        "seeds, no interval. A run that diverged counts as guessing.\nThe margin is 0.5 points of test accuracy ("
        "language models: 0.02 nats of test loss). The rule of thumb drops the history\n"
        f"{'left' if left else 'right'} of the upright line; that is correct below the level line."
    )


evidence.table("predictors", shown=None, when=lambda cells: len(cells))(lambda cells: cells)
evidence.figure("why", data="predictors", when=lambda cells: len(cells))(lambda cells: draw(cells, RULE))
