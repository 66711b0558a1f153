"""Figures of modelled costs over the group size, and of simulated speeds over PipeDream."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.reference import BATCH_SIZE, LINKS, RATE, REFERENCE
from layerpipe2.planning.schedules import SCHEDULES
from paper_figures import style
from paper_figures.claims.costs import ANCHORS
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
        front = [style.handle("Pareto front", **_FRONT), style.handle("dominated", **_DOMINATED)]
        links = [style.handle(f"links of {link}", **looks) for looks, link in zip(_LINKS, LINKS, strict=True)]
        style.legend(figure, front + links, columns=5)
        rate = f"Modelled: {RATE / 1e12:.0f} TFLOP/s per processor; dashed: one of them."
        style.note(figure, f"Numbers at points: units per stage. {rate}\n{_SETTING}")
        return figure


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
    axis.set(ylim=(0, 105), xlim=(0, None), xlabel="sent (MB per mini-batch)")


def _draw_speed(axis: Any, mine: pd.DataFrame) -> None:
    for looks, link in zip(_LINKS, LINKS, strict=True):
        axis.plot(mine["group_size"], mine[link], clip_on=False, **looks)
    axis.axhline(1, color="#000000", linewidth=0.6, linestyle=(0, (4, 2)))
    axis.set(ylim=(0, None), xlabel="units per stage")
    style.integer_ticks(axis)


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
            axis.set(yscale="log", title=network_label(name), xlabel="units per stage")
            style.integer_ticks(axis)
        axes[0, 0].set_ylabel("MB in all stages")
        style.legend(figure, [style.handle(**looks) for looks in _PARTS.values()])
        style.note(figure, _SETTING + " Activations: (d + 1) mini-batches per stage.")
        return figure


_LOOKS: dict[str, dict[str, Any]] = {
    "layerpipe": {"color": "#d55e00", "marker": "o", "linestyle": (0, ()), "linewidth": 1.6},
    "layerpipe2": {"color": "#0072b2", "marker": "s", "linestyle": (0, (5, 1.5))},
    "pipedream": {"color": "#000000", "marker": "", "linestyle": (0, (4, 2)), "linewidth": 0.8},
    "zb-h1": {"color": "#009e73", "marker": "^", "linestyle": (0, (1, 1))},
    "1f1b": {"color": "#e69f00", "marker": "v", "linestyle": (0, (3, 1, 1, 1))},
    "gpipe": {"color": "#cc79a7", "marker": "D", "linestyle": (0, (1, 2)), "markersize": 3},
    "interleaved": {"color": "#7a4b1e", "marker": "P", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
}


def speeds(table: pd.DataFrame) -> Figure:
    """Speed over PipeDream against the number of processors, a panel per network; grey lines: LayerPipe's abstract."""
    names = list(dict.fromkeys(table["network"]))
    with style.context():
        figure, axes = style.canvas(4.2, 3, 2, sharey=True, sharex=True)
        for axis, name in zip(axes.flat, names, strict=False):
            axis.axhline(ANCHORS[0], color="#777777", linewidth=0.8, zorder=1)
            axis.plot((7, 9), (ANCHORS[1], ANCHORS[1]), color="#777777", linewidth=0.8, zorder=1)
            for schedule, looks in _LOOKS.items():
                mine = table[(table["network"] == name) & (table["schedule"] == schedule)]
                axis.plot(mine["processors"], mine["speed"], clip_on=False, **looks)
            axis.set(title=REFERENCE[name].label, xticks=sorted(set(table["processors"])))
            axis.tick_params(labelbottom=True)
        for spare in axes.flat[len(names) :]:
            spare.axis("off")
            handles = [style.handle(SCHEDULES[s].label, **looks) for s, looks in _LOOKS.items()]
            mean, most = (f"+{100 * (anchor - 1):.0f} %" for anchor in ANCHORS)
            text = f"LayerPipe's abstract:\n{mean} on average; {most} at\nmost, with 7 to 9 processors"
            anchors = style.handle(text, color="#777777", linewidth=0.8)
            spare.legend(handles=[*handles, anchors], loc="center left", borderaxespad=0)
        for axis in axes.flat[max(0, len(names) - 3) : len(names)]:
            axis.set_xlabel("processors")
        figure.supylabel("speed over PipeDream", fontsize=8)
        arrays = "Modelled: 128 × 128 systolic arrays at 1 GHz, links 64 GB/s, batches of 32."
        style.note(figure, f"{arrays} AlexNet has 8 stages at most.")
        return figure


def devices(table: pd.DataFrame) -> Figure:
    """LayerPipe's speed over PipeDream on every device: a mark per network and number of processors, and the mean."""
    labels = list(dict.fromkeys(table["device"]))[::-1]
    networks = list(dict.fromkeys(table["network"]))
    with style.context():
        figure, axes = style.canvas(2.7, 2, 1, sharey=True, sharex=True)
        for axis, (low, high) in zip(axes[0], ((3, 6), (7, 9)), strict=True):
            for height in ANCHORS:
                axis.axvline(height, color="#777777", linewidth=0.8, zorder=1)
            axis.axvline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
            mine = table[(table["schedule"] == "layerpipe") & table["processors"].between(low, high)]
            _draw_marks(axis, mine, labels, networks)
            axis.set(title=f"{low} to {high} processors", xlabel="speed of LayerPipe over PipeDream")
        axes[0, 0].set_yticks(range(len(labels)), labels)
        handles = [style.handle(REFERENCE[n].label, linestyle="", **_mark(i)) for i, n in enumerate(networks)]
        mean = style.handle("mean", linestyle="", marker="|", color="black", markersize=11, markeredgewidth=2)
        style.legend(figure, [*handles, mean], columns=6)
        marks = "LayerPipe in our reading, modelled; st.: stationary. Marks: a network and number of processors."
        lines = "Grey lines: its abstract, +25 % on average, +80 % at most. Dashed: as fast as PipeDream."
        style.note(figure, f"{marks}\n{lines}")
        return figure


def _mark(index: int) -> dict[str, Any]:
    color = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7")[index % 5]
    return {"color": color, "marker": "osDv^"[index % 5], "markersize": 4, "markeredgecolor": "white", "mew": 0.3}


def _draw_marks(axis: Any, mine: pd.DataFrame, labels: Sequence[str], networks: Sequence[str]) -> None:
    for height, label in enumerate(labels):
        here = mine[mine["device"] == label]
        for index, network in enumerate(networks):
            speeds = here.loc[here["network"] == network, "speed"]
            shift = np.full(len(speeds), height + 0.13 * (2 - index))
            axis.plot(speeds, shift, linestyle="", clip_on=False, **_mark(index))
        axis.plot(here["speed"].mean(), height, marker="|", color="black", markersize=14, markeredgewidth=2, zorder=2.5)
