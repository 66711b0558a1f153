"""What doing without a history costs, against what was measured before training: a point per cell."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paper_figures import style
from paper_figures.claims.rule import Rule
from paper_figures.text import network_label, optimizer_label

_COLOURS = {"SGD": "#b2182b", "momentum": "#555555", "AdamW": "#b05be0"}
"""No strategy has these."""
_MARKERS = "osD^vPXph*<>"
_SCREENED: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.4}
_CONFIRMED: dict[str, Any] = {"markersize": 7, "markeredgecolor": "black", "markeredgewidth": 1.0, "alpha": 0.8}
_HOLLOW: dict[str, Any] = {"color": "#222222", "markerfacecolor": "white"}
_LINE: dict[str, Any] = {"color": "#666666", "linewidth": 0.8, "linestyle": (0, (4, 2))}


def why(cells: pd.DataFrame, rule: Rule) -> Figure:
    """Cost in margins against the rule's quantity (of a cosine, what it lacks of 1), with margin and threshold.

    Args:
        cells: from :func:`paper_figures.claims.why.of_cells`.
        rule: whose quantity and threshold are shown.
    """
    shown = cells[cells[rule.quantity].notna()]
    how = [optimizer_label(row.optimizer, row.momentum).split()[0] for row in shown.itertuples()]
    shown = shown.assign(x=_place(shown[rule.quantity], rule), how=how)
    marker = dict(zip(sorted(shown["network"].unique()), _MARKERS, strict=False))
    with style.context():
        figure, axes = style.canvas(3.4)
        axis = axes[0, 0]
        for row in shown.sort_values("screened", ascending=False, kind="stable").to_dict("records"):
            edge = _SCREENED if row["screened"] else _CONFIRMED
            look = {"color": _COLOURS[row["how"]], "marker": marker[row["network"]]}
            axis.plot(row["x"], row["cost"], linestyle="", **look | edge)
        axis.axhline(1, **_LINE)
        axis.axvline(_place(rule.threshold, rule), **_LINE)
        axis.set(xscale="log", xlabel=_label(rule), ylabel="cost of doing without a history\n(in margins)")
        axis.set_yscale("symlog", linthresh=1, linscale=0.7)
        axis.set_ylim(top=max(10.0, 2 * shown["cost"].max()))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        hows = [how for how in _COLOURS if how in set(shown["how"])]
        handles = [style.handle(how, color=_COLOURS[how], linewidth=5) for how in hows]
        handles += [style.handle(network_label(n), marker=m, linestyle="", **_HOLLOW) for n, m in marker.items()]
        if not shown["screened"].all():
            handles.append(style.handle("confirmed", color="white", marker="8", linestyle="", **_CONFIRMED))
        style.legend(figure, [*handles, style.handle("margin; threshold", **_LINE)], columns=5)
        style.note(figure, _note(shown, rule))
        return figure


def _place(value: Any, rule: Rule) -> Any:
    return np.maximum(1 - value, 1e-9) if rule.quantity.startswith("alignment.") else value


def _label(rule: Rule) -> str:
    lacks = "1 - " if rule.quantity.startswith("alignment.") else ""
    return f"{lacks}{rule.meaning}"


def _note(shown: pd.DataFrame, rule: Rule) -> str:
    coarse = int(shown["screened"].sum())
    left = rule.drop_above == rule.quantity.startswith("alignment.")
    return (
        f"A point per cell in which exact stashing trains: n = {coarse} of the coarse searches, {len(shown) - coarse} "
        "confirmed; means over seeds.\nA run that diverged counts as guessing. The margin is 0.5 points of test "
        "accuracy (language models: 0.02 nats of test loss).\nThe rule of thumb drops the history "
        f"{'left' if left else 'right'} of the upright line; that is correct below the level line."
    )
