"""Copies of the weights against what is lost: which mitigations no other one is better than in both."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import STASH
from paper_figures import style
from paper_figures.field.page import field, label
from paper_figures.text import network_label, span

_RIGHT = 3


def pareto(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of one cell that no other has fewer copies than at no more cost, or less cost at no more copies."""
    ordered = cells[cells["cost"].notna() & (cells["diverged"] == 0)].sort_values(["copies", "cost"])
    return ordered[ordered["cost"] < ordered["cost"].cummin().shift(fill_value=float("inf"))]


@field.table("pareto", shown=None)
def front_table(final: pd.DataFrame) -> pd.DataFrame:
    """The front of every cell."""
    groups = [pareto(cell) for _, cell in final.groupby(["law", "setup", "network"], sort=False)]
    return pd.concat(groups) if groups else final


@field.figure("pareto", data="outcomes", when=lambda final: len(final))
def front(final: pd.DataFrame) -> Figure:
    """A panel per network and setup of the law 2S, or of the first law there is."""
    law = "2S" if "2S" in set(final["law"]) else final["law"].iloc[0]
    mine = final[final["law"] == law]
    mine = mine[mine.groupby(["setup"])["row"].transform("nunique") > 4]
    networks, setups = list(dict.fromkeys(mine["network"])), list(dict.fromkeys(mine["setup"]))
    figure, axes = style.canvas(0.9 + 2.3 * len(setups), len(networks), max(1, len(setups)))
    for line, setup in zip(axes, setups, strict=False):
        for axis, network in zip(line, networks, strict=True):
            _panel(axis, mine[(mine["setup"] == setup) & (mine["network"] == network)])
            axis.set_title(f"{network_label(network)}, {setup}")
    for axis in axes[-1]:
        axis.set_xlabel("copies of the weights beside the latest")
    figure.supylabel("cost (points under sequential training)", fontsize=8)
    style.title(figure, f"Memory against cost, law {law}: the front and stash are named")
    style.note(
        figure,
        f"Points: mean of pairs with one seed, n = {span(mine['n'])}; bars: 95 % bootstrap interval. Black: on the "
        "front; grey: not.\nHollow: diverged with a seed, which is not on it. Copies: mean over the network's weights.",
    )
    return figure


def _panel(axis: Any, cells: pd.DataFrame) -> None:
    best = pareto(cells)
    axis.plot(best["copies"], best["cost"], drawstyle="steps-post", color="#bbbbbb", linewidth=0.8, zorder=1)
    for cell in cells[cells["cost"].notna()].itertuples():
        on = cell.row in set(best["row"])
        colour = "black" if on else "#999999"
        face = "white" if cell.diverged else colour
        if pd.notna(cell.low):
            axis.plot([cell.copies] * 2, [cell.low, cell.high], color=colour, linewidth=0.8)
        axis.plot(cell.copies, cell.cost, "o", color=colour, markerfacecolor=face, markersize=3.5)
        if on or cell.row == STASH:
            left = cell.copies > _RIGHT  # there the name would leave the panel
            place = {"xytext": (-4, -8), "ha": "right"} if left else {"xytext": (4, 2)}
            at = (cell.copies, cell.cost)
            axis.annotate(label(cell.row), at, color=colour, textcoords="offset points", fontsize=6.5, **place)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xticks([0, 1, 2, 4, 8, 16], ["0", "1", "2", "4", "8", "16"])
    axis.set_xlim(-0.15, 24)
    axis.margins(y=0.15)
