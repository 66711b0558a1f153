"""Seconds to a target loss as a figure: a panel per network and place, a row per choice."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from paper_figures import style, variant_style
from paper_figures.records.pipelines import label
from paper_figures.records.regimes import ONE_HOST
from paper_figures.records.time_to_loss import TimeToLoss

_ROW = 0.145  # inches
_SHORT = {"data parallel, ": "", " micro-batches": " parts"}


def time_to_loss(found: TimeToLoss) -> Figure:
    """Points are medians, lines their intervals; the fastest choice of a panel has a filled mark."""
    shown = found.summary()
    names = variant_style.ordered(shown["variant"])
    rows, columns = len(found.networks), len(found.places)
    with style.context():
        height = 0.75 + rows * (0.3 + _ROW * len(names))
        figure, axes = style.canvas(height, columns, rows, width=style.SINGLE, sharey=True)
        for i, net in enumerate(found.networks):
            mine = shown[shown["network"] == net["network"]]
            limits = _limits(mine)
            for j, place in enumerate(found.places):
                _draw(axes[i, j], mine[mine["place"] == place].set_index("variant"), names, limits)
                head = "" if j else f"{label(net['network'])}, loss ≤ {net['target']:g}"
                where = place if place == ONE_HOST else f"two hosts, {place}"
                axes[i, j].set_title(f"{head}\n{where}", fontsize=7, pad=3)
        axes[0, 0].set_yticks(range(len(names)), [_short(name) for name in names])
        axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
        figure.supxlabel(_note(found), fontsize=7)
        return figure


def _note(found: TimeToLoss) -> str:
    seeds = len(found.provenance["design"]["seeds"])
    rounds = found.provenance["options"]["rounds"]
    return (
        "seconds to the target loss (logarithmic)\n"
        f"medians with 95 % intervals, n={seeds} seeds, {rounds} rounds;\nfilled: fastest of the panel; "
        "parts: micro-batches"
    )


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Of the axis: all that is finite."""
    values = rows[["low", "high", "seconds"]].to_numpy()
    finite = values[np.isfinite(values)]
    return (finite.min() / 1.3, finite.max() * 1.3) if len(finite) else (0.1, 10.0)


def _draw(axis: Any, rows: pd.DataFrame, names: list[str], limits: tuple[float, float]) -> None:
    axis.set(xscale="log", xlim=limits)
    best = rows["seconds"].idxmin()
    for place, name in enumerate(names):
        if name not in rows.index or not math.isfinite(rows.loc[name, "seconds"]):
            words, at = "missed" if name in rows.index else "not tried", axis.get_yaxis_transform()
            axis.text(0.04, place, words, transform=at, fontsize=5.5, color="#777777", verticalalignment="center")
            continue
        row, color = rows.loc[name], variant_style.color(name)
        ends = [row["low"], min(row["high"], limits[1])]  # an interval without an end goes to the edge
        axis.plot(ends, [place, place], color=color, linewidth=1.4, marker="")
        face = {"markerfacecolor": color if name == best else "white", "markeredgecolor": color}
        axis.plot([row["seconds"]], [place], marker=variant_style.marker(name), markersize=4.5, zorder=3, **face)
    decades = math.log10(limits[1] / limits[0])
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1 else (1, 3) if decades < 2.2 else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _short(name: str) -> str:
    text = variant_style.label(name)
    for long, short in _SHORT.items():
        text = text.replace(long, short)
    return text
