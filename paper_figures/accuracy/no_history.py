"""What doing without a history costs in every cell, in margins: one line per cell."""

from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from layerpipe2.lab.judging.designs import LATEST
from paper_figures import style
from paper_figures.accuracy.assay import CANNOT_TELL, NEEDED, NOT_NEEDED, UNTRAINED, Assay, few, in_place_of_a_verdict
from paper_figures.accuracy.evidence import evidence
from paper_figures.text import amount, listed

_ORDER = [NEEDED, NOT_NEEDED, CANNOT_TELL, UNTRAINED]
_ENDS = (-30.0, 60.0)
"""Of the axis, in margins; an interval that goes on has an arrow."""
_TICKS = (-10, -1, 0, 1, 10)
_COLUMNS = (0.0, 0.3, 0.575, 0.64)
"""Where the words beside the picture begin."""
_NOTE = (
    "Dots: mean cost of the latest weights against exact stashing; lines: {interval} % intervals over n seeds. Grey: "
    "the margin ({margins}); right of it something is lost. Filled: shown on its side of the margin. Diverged: of the "
    "latest weights. Delay: what exact stashing loses against sequential training. The axis is linear in the margin, "
    "then logarithmic."
)


def by_kind(found: Assay) -> pd.DataFrame:
    """The costs of all cells with their ``kind``, those that need a history first, the dearest of a kind first."""
    kinds = [in_place_of_a_verdict(row) or NEEDED for row in found.costs.to_dict("records")]
    table = found.costs.assign(
        kind=kinds, place=list(map(_ORDER.index, kinds)), gain=-found.costs["inconsistency"] / found.costs["margin"]
    )
    return table.sort_values(["place", "gain"], kind="stable", ignore_index=True).drop(columns=["place", "gain"])


@evidence.figure("no_history", data="costs")
def no_history(tuned: Assay, level: float) -> Figure:
    """Dots with intervals on an axis that is linear within the margin and logarithmic beyond; costs in words."""
    table = by_kind(tuned)
    figure, axes = style.canvas(1.5 + 0.2 * len(table), columns=2, sharey=True, width_ratios=(1, 1.75))
    axis, words = axes.flat
    cut = False
    for place, row in enumerate(table.to_dict("records")):
        cut |= _line(axis, place, row)
        costs = f"{row['inconsistency']:+.2f} {row['unit']}", f"{row['delay']:+.2f}{few(row)}"
        lost = f", {row['diverged_latest']} diverged" if row["diverged_latest"] else ""
        _say(words, place, *costs, row["seeds"], row["kind"] + lost)
    _say(words, -1, "no history", "delay", "n", "a history is", fontweight="bold")
    words.set_axis_off()
    _axis(axis, table)
    style.title(figure, "What is lost without a weight history, where each strategy has its own rate")
    margins = [amount(margin, unit) for unit, margin in table.groupby("unit", sort=False)["margin"].first().items()]
    note = _NOTE.format(margins=listed(margins), interval=f"{100 * (1 - 2 * level):g}")
    style.note(figure, fill(note + (" Arrows: the line goes on." if cut else ""), 125))
    return figure


def _line(axis: Any, place: int, row: dict[str, Any]) -> bool:
    """Draw a cell; returns whether its interval goes on beyond the axis."""
    mean, low, high = (row[f"inconsistency{end}"] / row["margin"] for end in ("", "_low", "_high"))
    axis.plot([max(low, _ENDS[0]), min(high, _ENDS[1])], [place, place], color="#222222", linewidth=0.9)
    cut = [(_ENDS[0], "<")] * (low < _ENDS[0]) + [(_ENDS[1], ">")] * (high > _ENDS[1])
    for edge, marker in cut:
        axis.plot(edge, place, marker, color="#222222", markersize=3.5, clip_on=False)
    colour = style.line(LATEST)["color"]
    face = colour if row["kind"] in (NEEDED, NOT_NEEDED) else "white"
    axis.plot(mean, place, "o", markersize=5, markerfacecolor=face, markeredgecolor=colour, zorder=3)
    return bool(cut)


def _say(axis: Any, place: int, *texts: object, **looks: Any) -> None:
    for x, text in zip(_COLUMNS, texts, strict=True):
        axis.text(x, place, str(text), fontsize=7, va="center", **looks)


def _axis(axis: Any, table: pd.DataFrame) -> None:
    axis.axvspan(-1, 1, color="#e6e6e6", zorder=0, linewidth=0)
    axis.axvline(0, color="#444444", linewidth=0.6)
    axis.set_xscale("symlog", linthresh=1, linscale=0.8)
    axis.set(xlim=_ENDS, ylim=(len(table) - 0.4, -1.4), xlabel="cost of no history, in margins")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axis.set_yticks(range(len(table)), table["cell"])
    axis.grid(False, axis="y")
