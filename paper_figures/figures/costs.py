"""Figures of modelled costs over the group size: communication against computation, speed, memory."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from layerpipe2.planning.reference import BATCH_SIZE, LINKS, RATE
from paper_figures import style
from paper_figures.text import network_label

_FRONT: dict[str, Any] = {"color": "#0072b2", "marker": "o", "linestyle": (0, ()), "markersize": 4}
_DOMINATED: dict[str, Any] = {"color": "#888888", "marker": "o", "linestyle": "", "markerfacecolor": "white"}
_LINKS: tuple[dict[str, Any], ...] = (
    {"color": "#009e73", "marker": "^", "linestyle": (0, ()), "markersize": 7, "markerfacecolor": "white"},
    {"color": "#e69f00", "marker": "s", "linestyle": (0, (4, 1.5))},
    {"color": "#d55e00", "marker": "v", "linestyle": (0, (1, 1))},
)
_SETTING = f"3 × 32 × 32 inputs, mini-batches of {BATCH_SIZE}, float32, LayerPipe2's delays."


def tradeoff(table: pd.DataFrame) -> Figure:
    """Above: computation of the slowest stage against communication, one point per group size, with the Pareto front.

    Below: speed over one processor against the group size, for several links.
    """
    names = list(dict.fromkeys(table["network"]))
    with style.context():
        figure, axes = style.canvas(4.3, len(names), 2)
        for column, name in enumerate(names):
            mine = table[table["network"] == name]
            _draw_front(axes[0, column], mine)
            _draw_speed(axes[1, column], mine)
            axes[0, column].set_title(network_label(name))
        axes[0, 0].set_ylabel("work of slowest stage\n(% of network)")
        axes[1, 0].set_ylabel("speed over one processor")
        style.legend(figure, _tradeoff_handles(), columns=5)
        style.note(
            figure,
            f"Numbers at points: units per stage. Modelled: {_rate()} per processor; dashed: one of them.\n{_SETTING}",
        )
        return figure


def _rate() -> str:
    return f"{RATE / 1e12:.0f} TFLOP/s"


def _draw_front(axis: Any, mine: pd.DataFrame) -> None:
    front = mine[mine["efficient"]].sort_values("communication")
    rest = mine[~mine["efficient"]]
    axis.plot(rest["communication"] / 1e6, 100 * rest["share"], clip_on=False, zorder=3, **_DOMINATED)
    axis.plot(front["communication"] / 1e6, 100 * front["share"], clip_on=False, zorder=4, **_FRONT)
    last, widest = (float("-inf"), 0.0), mine["communication"].max()
    for row in front.itertuples():
        crowded = row.communication - last[0] < 0.05 * widest and last[1] - row.share < 0.08
        offset = (-7, -9) if crowded else (4, 3)
        place = {"textcoords": "offset points", "xytext": offset, "fontsize": 7}
        axis.annotate(str(row.group_size), (row.communication / 1e6, 100 * row.share), **place)
        last = row.communication, row.share
    axis.set_ylim(0, 105)
    axis.set_xlim(left=0)
    axis.set_xlabel("sent (MB per mini-batch)")


def _draw_speed(axis: Any, mine: pd.DataFrame) -> None:
    for looks, link in zip(_LINKS, LINKS, strict=True):
        axis.plot(mine["group_size"], mine[link], clip_on=False, **looks)
    axis.axhline(1, color="#000000", linewidth=0.6, linestyle=(0, (4, 2)))
    axis.set_ylim(bottom=0)
    axis.set_xlabel("units per stage")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _tradeoff_handles() -> list[Line2D]:
    links = [style.handle(f"links of {link}", **looks) for looks, link in zip(_LINKS, LINKS, strict=True)]
    return [style.handle("Pareto front", **_FRONT), style.handle("dominated", **_DOMINATED), *links]


_PARTS: dict[str, dict[str, Any]] = {
    "activations": {"label": "stored activations", "color": "#999999", "marker": "d", "linestyle": (0, ())},
    "parameters": {"label": "parameters", "color": "#000000", "marker": "", "linestyle": (0, (1, 1))},
    "history_stash": style.line("stash", label="history: exact stash"),
    "history_ema": style.line("ema-window", label="history: moving average"),
}


def memory(table: pd.DataFrame) -> Figure:
    """Parameters, stored activations and weight history (exact and averaged) against the group size, on a log axis.

    One stage has no history, so that its lines end before.
    """
    names = list(dict.fromkeys(table["network"]))
    with style.context():
        figure, axes = style.canvas(2.5, len(names), sharey=True)
        for axis, name in zip(axes[0], names, strict=True):
            mine = table[table["network"] == name]
            for part, looks in _PARTS.items():
                there = mine[mine[part] > 0]
                axis.plot(there["group_size"], there[part] / 1e6, clip_on=False, **looks)
            axis.set_yscale("log")
            axis.set_title(network_label(name))
            axis.set_xlabel("units per stage")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0, 0].set_ylabel("MB in all stages")
        style.legend(figure, [Line2D([], [], **looks) for looks in _PARTS.values()])
        style.note(figure, _SETTING + " Activations: (d + 1) mini-batches per stage.")
        return figure
