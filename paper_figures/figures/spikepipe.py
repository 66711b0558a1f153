"""SpikePipe's schedule against standard pipelining: speed, utilisation, communication over the number of processors."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerpipe2.planning.spikepipe.networks import LABELS
from paper_figures import style
from paper_figures.claims.spikepipe import ANCHORS

_COLOURS = {"standard": "#000000", "fixed": "#e69f00", "together": "#009e73", "free": "#0072b2"}
_MARKERS = {"standard": "", "fixed": "v", "together": "^", "free": "o"}
_GREY = {"color": "#777777", "linewidth": 0.8, "zorder": 1}


def _look(placement: str, *, whole: bool) -> dict[str, Any]:
    colour = _COLOURS[placement]
    look: dict[str, Any] = {
        "color": colour,
        "marker": _MARKERS[placement],
        "linestyle": style.SOLID if whole else (0, (1, 1)),
    }
    if placement == "standard":
        look |= {"linestyle": (0, (4, 2)), "linewidth": 0.8}
    return look | {"markerfacecolor": colour if whole else "white"}


def against_standard(table: pd.DataFrame) -> Figure:
    """A column per network, a row per measure; solid: tasks of whole sequences, dotted and hollow: of a time step."""
    table = table[table["array"] == table["array"].iloc[0]]
    names, whole = list(dict.fromkeys(table["network"])), table["steps"].max()
    measures = {"speed": "speed over standard\npipelining", "utilisation": "processors busy (%)"}
    measures |= {"communication": "links' share of\nbusy time (%)"}
    with style.context():
        figure, axes = style.canvas(5.8, len(names), len(measures), sharex=True, sharey="row")
        for row, (measure, label) in zip(axes, measures.items(), strict=True):
            for axis, name in zip(row, names, strict=True):
                cases = table[table["network"] == name].groupby(["placement", "steps"], sort=False)
                for (placement, steps), mine in cases:
                    values = mine[measure] * (1 if measure == "speed" else 100)
                    axis.plot(mine["processors"], values, clip_on=False, **_look(placement, whole=steps == whole))
            row[0].set(ylim=(0, None), ylabel=label, xticks=sorted(set(table["processors"])))
        for axis, name in zip(axes[0], names, strict=True):
            axis.set_title(LABELS[name])
            for anchor in ANCHORS:
                axis.axhline(anchor, **_GREY)
        for axis in axes[-1]:
            axis.set_xlabel("processors")
        style.legend(figure, _entries(), columns=2)
        sizes = "Modelled: 128 × 128 arrays at 1 GHz, links of 64 GB/s and 1 µs, mini-batches of 32, 8 time steps."
        style.note(
            figure, f"{sizes} The delays are\nthe same everywhere. 1 × 28 × 28 inputs; networks of 9, 8 and 10 units."
        )
        return figure


def _entries() -> list[Line2D]:
    step = "a time step per task"
    return [
        style.handle("standard pipelining", **_look("standard", whole=True)),
        style.handle("free placement", **_look("free", whole=True)),
        style.handle("unit and mini-batch together", **_look("together", whole=True)),
        style.handle("SpikePipe's abstract: 1.6 on average, 2 in some cases", **_GREY),
        style.handle(f"groups as in standard pipelining, {step}", **_look("fixed", whole=False)),
        style.handle(f"free placement, {step}", **_look("free", whole=False)),
        style.handle(f"unit and mini-batch together, {step}", **_look("together", whole=False)),
    ]
