"""Stability of delayed gradients: theory against the training engine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.theory.stability import closed_form, growth, largest_stable_coupled_step, linear_chain_hessian
from paper_figures import style
from paper_figures.page import report
from paper_figures.text import law_label

_MOMENTA = {"0": (style.OTHERS[0], "o"), "0.5": (style.OTHERS[1], "^"), "0.9": (style.OTHERS[3], "s")}


_DELAYS = {
    delay: (style.OTHERS[place], marker)
    for place, (delay, marker) in enumerate({"0": "o", "1": "^", "4": "s", "14": "D"}.items())
}


_MARKER: dict[str, Any] = {"markersize": 3.2, "markerfacecolor": "white"}


_CHAINS = {"layerpipe2": (style.OTHERS[1], "s"), "pipedream": ("#000000", "o")}


@report.figure("stability", data="results/theory/stability.csv")
def bounds(stability: pd.DataFrame) -> Figure:
    """Bound over the delay, growth around the bound, and bound of a deep linear network with unequal delays.

    Args:
        stability: of :func:`experiments.theory.stability`; series are text.
    """
    figure, axes = style.canvas(2.75, columns=3)
    for draw, axis in zip((_bounds, _growths, _chains), axes[0], strict=True):
        draw(axis, stability)
    style.title(figure, "How large a step stays stable when gradients are late")
    style.note(
        figure,
        "Lines: theory. Markers: measured with the training engine (exact stashing).\n"
        "η learning rate; λ curvature; tr H sum of the stages' curvatures; m momentum.",
    )
    return figure


def _bounds(axis: Any, measured: pd.DataFrame) -> None:
    delays = np.arange(0, 19)
    for momentum, (color, marker) in _MOMENTA.items():
        axis.plot(delays, [closed_form(int(d), float(momentum)) for d in delays], color=color)
        _points(axis, measured, "bound", momentum, color, marker)
    axis.set(yscale="log", title="One layer, with momentum")
    axis.set(xlabel="delay d (updates)", ylabel="largest stable step ηλ")
    _legend(axis, {f"m = {m}": looks for m, looks in _MOMENTA.items()})
    axis.annotate("2 sin(π / (4d + 2))", (9, closed_form(9)), (8.2, 0.42), fontsize=7, color=_MOMENTA["0"][0])


def _growths(axis: Any, measured: pd.DataFrame) -> None:
    shares = np.linspace(0.05, 1.5, 146)
    for series, (color, marker) in _DELAYS.items():
        bound = closed_form(int(series))
        axis.plot(shares, [growth(share * bound, int(series)) for share in shares], color=color)
        _points(axis, measured, "growth", series, color, marker)
    axis.axhline(1, color="#777777", linewidth=0.6, zorder=1)
    axis.axvline(1, color="#777777", linewidth=0.6, zorder=1)
    axis.set(ylim=(0.6, 1.45), title="Around the bound, m = 0")
    axis.set(xlabel="step / largest stable step", ylabel="growth of errors per update")
    _legend(axis, {f"d = {delay}": looks for delay, looks in _DELAYS.items()})


def _chains(axis: Any, measured: pd.DataFrame) -> None:
    lengths = sorted({int(x) for x in measured.loc[measured["panel"] == "chain", "x"]})
    for name, (color, marker) in _CHAINS.items():
        delays = [DELAY_LAWS[name].delays(length) for length in lengths]
        found = [chain_bound(length, d) for length, d in zip(lengths, delays, strict=True)]
        axis.plot(lengths, found, color=color)
        axis.plot(lengths, [closed_form(d[0]) for d in delays], color=color, linestyle=(0, (3, 2)), linewidth=0.8)
        _points(axis, measured, "chain", name, color, marker)
    axis.set(yscale="log", xticks=lengths, ylim=(0.06, 9), title="Deep linear network")
    axis.set(xlabel="stages K, one layer each", ylabel="largest stable step η tr H")
    named = {law_label(name): looks for name, looks in _CHAINS.items()}
    dashed = style.handle("all at delay of stage 0", color="#444444", linestyle=(0, (3, 2)), linewidth=0.8)
    _legend(axis, named, [dashed])


def _points(axis: Any, measured: pd.DataFrame, panel: str, series: str, color: str, marker: str) -> None:
    mine = measured[(measured["panel"] == panel) & (measured["series"] == series)]
    axis.plot(mine["x"], mine["y"], linestyle="", marker=marker, markeredgecolor=color, markeredgewidth=0.9, **_MARKER)


def _legend(axis: Any, looks: dict[str, tuple[str, str]], more: Sequence[Line2D] = ()) -> None:
    handles = [style.handle(label, color=c, marker=m, **_MARKER) for label, (c, m) in looks.items()]
    axis.legend(handles=[*handles, *more], handlelength=2.0, borderaxespad=0.2, labelspacing=0.25)


def chain_bound(length: int, delays: Sequence[int]) -> float:
    """Largest stable ``eta tr H`` of a linear network of ``length`` unit weights."""
    return length * largest_stable_coupled_step(linear_chain_hessian([1.0] * length), delays, precision=1e-5)
