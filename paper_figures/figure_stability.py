"""Stability of delayed gradients: theory against the training engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerpipe2.delays import CONVENTIONS
from layerpipe2.theory.coupled_stability import largest_stable_coupled_step, linear_chain_hessian
from layerpipe2.theory.stability import closed_form, growth
from layerpipe2.theory.stability_simulation import chain_growth, quadratic_growth
from paper_figures import style

MOMENTA = {0.0: ("#0072b2", "o"), 0.5: ("#009e73", "^"), 0.9: ("#d55e00", "s")}
DELAYS = {0: ("#000000", "o"), 1: ("#0072b2", "^"), 4: ("#009e73", "s"), 14: ("#d55e00", "D")}
CHAINS = {"layerpipe2": ("#d55e00", "s"), "pipedream": ("#0072b2", "o")}
LENGTHS = (2, 3, 4, 6, 8, 10)
RATIO, UPDATES = 1.005, 640
"""Steps that are tried differ by this ratio; a step is unstable if errors grow over the last half of the updates."""


def measure() -> pd.DataFrame:
    """What the engine does: columns panel, series (momentum, delay or convention), x, y; about half a minute.

    ``bound``: x delay, y largest ``eta lambda`` tried before the first unstable one. ``growth``: x ``eta lambda`` as
    a multiple of the bound of the theory, y measured growth. ``chain``: x stages, y largest ``eta tr H``.
    """
    rows = [*_measured_bounds(), *_measured_growth(), *_measured_chains()]
    return pd.DataFrame(rows, columns=["panel", "series", "x", "y"])


def stability(measured: pd.DataFrame) -> Figure:
    """Bound over the delay, growth around the bound, and bound of a deep linear network with unequal delays."""
    with style.context():
        figure, axes = style.canvas(2.75, columns=3)
        first, second, third = axes[0]
        _bounds(first, measured)
        _growths(second, measured)
        _chains(third, measured)
        style.note(figure, "Lines: theory. Markers: measured with the training engine (exact stashing).")
        return figure


def _bounds(axis: Any, measured: pd.DataFrame) -> None:
    delays = np.arange(0, 19)
    for momentum, (color, marker) in MOMENTA.items():
        axis.plot(delays, [closed_form(int(d), momentum) for d in delays], color=color)
        _points(axis, measured, "bound", f"{momentum:g}", color, marker)
    axis.set(
        yscale="log", xlabel="delay d (updates)", ylabel="largest stable step ηλ", title="One layer, with momentum"
    )
    _legend(axis, {f"m = {m:g}": looks for m, looks in MOMENTA.items()})
    axis.annotate("2 sin(π / (4d + 2))", (9, closed_form(9)), (8.2, 0.42), fontsize=7, color=MOMENTA[0.0][0])


def _growths(axis: Any, measured: pd.DataFrame) -> None:
    shares = np.linspace(0.05, 1.5, 146)
    for delay, (color, marker) in DELAYS.items():
        axis.plot(shares, [growth(s * closed_form(delay), delay) for s in shares], color=color)
        _points(axis, measured, "growth", str(delay), color, marker)
    axis.axhline(1, color="#777777", linewidth=0.6, zorder=1)
    axis.axvline(1, color="#777777", linewidth=0.6, zorder=1)
    axis.set(ylim=(0.6, 1.45), xlabel="step / largest stable step", ylabel="growth of errors per update",
             title="Around the bound, m = 0")  # fmt: skip
    _legend(axis, {f"d = {delay}": looks for delay, looks in DELAYS.items()})


def _chains(axis: Any, measured: pd.DataFrame) -> None:
    for name, (color, marker) in CHAINS.items():
        delays = [CONVENTIONS[name](length).delays for length in LENGTHS]
        found = [_chain_bound(length, d) for length, d in zip(LENGTHS, delays, strict=True)]
        axis.plot(LENGTHS, found, color=color)
        axis.plot(LENGTHS, [closed_form(d[0]) for d in delays], color=color, linestyle=(0, (3, 2)), linewidth=0.8)
        _points(axis, measured, "chain", name, color, marker)
    axis.set(yscale="log", xlabel="stages K, one layer each", ylabel="largest stable step η tr H",
             title="Deep linear network", xticks=LENGTHS, ylim=(0.06, 9))  # fmt: skip
    labels = {style.convention_label(name): looks for name, looks in CHAINS.items()}
    dashed = Line2D([], [], color="#444444", linestyle=(0, (3, 2)), linewidth=0.8, label="all at delay of stage 0")
    _legend(axis, labels, [dashed])


def _points(axis: Any, measured: pd.DataFrame, panel: str, series: str, color: str, marker: str) -> None:
    mine = measured[(measured["panel"] == panel) & (measured["series"].astype(str) == series)]
    axis.plot(mine["x"], mine["y"], linestyle="", marker=marker, markersize=3.2, markerfacecolor="white",
              markeredgecolor=color, markeredgewidth=0.9)  # fmt: skip


def _legend(axis: Any, looks: dict[str, tuple[str, str]], more: Sequence[Line2D] = ()) -> None:
    handles = [Line2D([], [], color=c, marker=m, markersize=3.2, markerfacecolor="white", label=label)
               for label, (c, m) in looks.items()]  # fmt: skip
    axis.legend(handles=[*handles, *more], handlelength=2.0, borderaxespad=0.2, labelspacing=0.25)


Row = tuple[str, str, float, float]


def _measured_bounds() -> Iterator[Row]:
    for momentum in MOMENTA:
        for delay in (0, 1, 2, 4, 8, 13, 18):
            steps = _grid(0.003, 4.2)
            unstable = quadratic_growth(steps, delay, momentum, UPDATES) > 1
            yield "bound", f"{momentum:g}", delay, float(steps[int(np.argmax(unstable)) - 1])


def _measured_growth() -> Iterator[Row]:
    shares = np.linspace(0.1, 1.45, 16)
    for delay in DELAYS:
        found = quadratic_growth(shares * closed_form(delay), delay, updates=UPDATES)
        yield from (("growth", str(delay), float(x), float(y)) for x, y in zip(shares, found, strict=True))


def _measured_chains() -> Iterator[Row]:
    for name in CHAINS:
        for length in LENGTHS:
            delays = CONVENTIONS[name](length).delays
            steps = _grid(0.03, 2.2) / length  # all weights are 1, so tr H is the number of layers
            unstable = chain_growth([1.0] * length, delays, steps, updates=UPDATES) > 1
            yield "chain", name, length, float(steps[int(np.argmax(unstable)) - 1] * length)


def _chain_bound(length: int, delays: Sequence[int]) -> float:
    return length * largest_stable_coupled_step(linear_chain_hessian([1.0] * length), delays, precision=1e-5)


def _grid(low: float, high: float) -> Any:
    return np.geomspace(low, high, int(np.log(high / low) / np.log(RATIO)) + 2)
