"""Figures of simulated speeds over PipeDream, and how far they depend on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerpipe2.planning.reference import REFERENCE
from layerpipe2.planning.schedules import SCHEDULES
from paper_figures import style
from paper_figures.claims.costs import ANCHORS

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
            _anchors(axis)
            for schedule, looks in _LOOKS.items():
                mine = table[(table["network"] == name) & (table["schedule"] == schedule)]
                axis.plot(mine["processors"], mine["speed"], clip_on=False, **looks)
            axis.set_title(REFERENCE[name].label)
            axis.set_xticks(sorted(set(table["processors"])))
            axis.tick_params(labelbottom=True)
        for spare in axes.flat[len(names) :]:
            spare.axis("off")
            handles = [style.handle(SCHEDULES[s].label, **looks) for s, looks in _LOOKS.items()]
            spare.legend(handles=[*handles, _anchor_handle()], loc="center left", borderaxespad=0)
        for axis in axes.flat[max(0, len(names) - 3) : len(names)]:
            axis.set_xlabel("processors")
        figure.supylabel("speed over PipeDream", fontsize=8)
        style.note(
            figure,
            "Modelled: 128 × 128 systolic arrays at 1 GHz, links 64 GB/s, batches of 32. AlexNet has 8 stages at most.",
        )
        return figure


def _anchors(axis: Any) -> None:
    mean, most = ANCHORS
    axis.axhline(mean, color="#777777", linewidth=0.8, zorder=1)
    axis.plot((7, 9), (most, most), color="#777777", linewidth=0.8, zorder=1)


def _anchor_handle() -> Line2D:
    mean, most = (f"+{100 * (anchor - 1):.0f} %" for anchor in ANCHORS)
    text = f"LayerPipe's abstract:\n{mean} on average; {most} at\nmost, with 7 to 9 processors"
    return style.handle(text, color="#777777", linewidth=0.8)


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
            axis.set_title(f"{low} to {high} processors")
            axis.set_xlabel("speed of LayerPipe over PipeDream")
        axes[0, 0].set_yticks(range(len(labels)), labels)
        handles = [style.handle(REFERENCE[n].label, linestyle="", **_mark(i)) for i, n in enumerate(networks)]
        mean = style.handle("mean", linestyle="", marker="|", color="black", markersize=11, markeredgewidth=2)
        style.legend(figure, [*handles, mean], columns=6)
        style.note(
            figure,
            "LayerPipe in our reading, modelled; st.: stationary. Marks: a network and number of processors.\n"
            "Grey lines: its abstract, +25 % on average, +80 % at most. Dashed: as fast as PipeDream.",
        )
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
