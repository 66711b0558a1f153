"""Figure of theory against measurement: the error with which each strategy reconstructs the delayed weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from layerpipe2.history import find_strategy
from layerpipe2.history.moments import Updates
from layerpipe2.theory import reconstruction
from paper_figures import style
from paper_figures.records.training import CONFIGURATION, Records
from paper_figures.text import network_label, setting

SHOWN = ("ema-0.9", "ema-window", "ema-running", "ema-span", "ema-lsq", "pair")
"""The strategies that are drawn, where they were measured; the correlation is fitted to all that were."""

_EXACT = 1e-4
"""Errors below this are exact to rounding (the pair, delays 1 and 2) and have no place on a logarithmic axis."""


def reconstruction_theory(records: Records) -> Figure:
    """Theory (lines) against measurement (markers), with the optimizer's momentum and with the correlation fitted."""
    momentum = records.runs.groupby(CONFIGURATION)["momentum"].first().reset_index()
    return draw(records.reconstruction.merge(momentum, on=CONFIGURATION), records.dataset, records.convention)


def draw(measured: pd.DataFrame, dataset: str, convention: str) -> Figure:
    """The same from rows ``network, momentum, seed, delay, strategy, relative_error``: a column per network, momentum.

    The upper row takes the optimizer's momentum for the correlation of the updates (white gradients). The lower one
    fits a correlation and a white part to all averages measured.
    """
    kept = measured[(measured["delay"] > 0) & measured["relative_error"].notna()]
    raw = [name for name in kept["strategy"].unique() if find_strategy(name).raw]
    kept = kept[~kept["strategy"].isin(raw)].assign(momentum=kept["momentum"].fillna(0.0))
    groups = list(kept.groupby(["network", "momentum"], sort=True))
    with style.context():
        figure, axes = style.canvas(4.4, max(1, len(groups)), 2, sharex="col", sharey=True)
        for column, ((network, momentum), rows) in zip(axes.T, groups, strict=False):
            fit = reconstruction.fitted(rows.to_dict("records"))
            share = fit.white / (1 + fit.white)
            column[0].set_title(f"{network_label(str(network))}, m = {momentum:g}")
            column[1].set_title(f"fit: m = {fit.correlation:.2f}, {100 * share:.0f} % white")
            _panel(column[0], rows, Updates(float(momentum)))
            _panel(column[1], rows, fit)
            column[1].set_xlabel("delay (updates)")
        figure.supylabel("relative error of reconstructed weights (log scale)", fontsize=8)
        style.legend(figure, _handles(kept))
        style.note(figure, _note(kept, dataset, convention))
        return figure


def misfit(records: Records) -> dict[str, tuple[float, float]]:
    """Strategy -> least and largest mean error over its theory, less one, over networks and delays.

    The theory is that of the figure's upper row, with the optimizer's momentum for the correlation.
    """
    found: dict[str, list[float]] = {}
    momentum = records.runs.groupby("network")["momentum"].first()
    means = records.reconstruction.groupby(["network", "strategy", "delay"])["relative_error"].mean()
    for (network, strategy, delay), measured in means.items():
        if strategy in SHOWN and delay > 0 and measured > _EXACT:
            theory = reconstruction.error(strategy, int(delay), Updates(float(momentum[network])))
            if theory > _EXACT:
                found.setdefault(strategy, []).append(float(measured) / theory - 1)
    return {name: (min(found[name]), max(found[name])) for name in style.ordered(found)}


def _panel(axis: Any, rows: pd.DataFrame, updates: Updates) -> None:
    delays = np.arange(1, int(rows["delay"].max()) + 1)
    for strategy in _shown(rows):
        looks = find_strategy(strategy)
        theory = np.array([reconstruction.error(strategy, int(d), updates) for d in delays])
        drawn = theory > _EXACT
        axis.plot(delays[drawn], theory[drawn], color=looks.colour, linestyle=looks.dash)
        errors = rows[rows["strategy"] == strategy].groupby("delay")["relative_error"].agg(["mean", "min", "max"])
        errors = errors[errors["mean"] > _EXACT]
        spread = [errors["mean"] - errors["min"], errors["max"] - errors["mean"]]
        axis.errorbar(
            errors.index, errors["mean"], yerr=spread, elinewidth=0.6, **style.line(strategy, linestyle="none")
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 4, 10], integer=True))


def _shown(rows: pd.DataFrame) -> list[str]:
    return style.ordered(set(SHOWN) & set(rows["strategy"]))


def _handles(rows: pd.DataFrame) -> list[Line2D]:
    return [style.handle(find_strategy(name).label, **style.line(name)) for name in _shown(rows)]


def _note(rows: pd.DataFrame, dataset: str, convention: str) -> str:
    counts = rows[rows["strategy"].isin(SHOWN)].groupby(["network", "momentum", "strategy", "delay"]).size()
    low, high = (counts.min(), counts.max()) if len(counts) else (0, 0)
    spread = f"{low}" if low == high else f"{low} to {high}"
    return (
        "Lines: theory, AR(1) updates of correlation m: above, the optimizer's momentum; below, fitted with a white "
        f"part.\nMarkers: measured along stash runs, mean of n = {spread} (stage, partition, seed); bars: range.\n"
        "1 is no better than the latest weights; the pair is exact at delays 1 and 2. " + setting(dataset, convention)
    )
