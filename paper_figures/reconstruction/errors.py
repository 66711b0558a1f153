"""The error with which each strategy reconstructs the delayed weights: measured, and against theory."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from layerpipe2.lab.judging.designs import LATEST
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from layerpipe2.strategies.moments import Updates
from layerpipe2.theory import reconstruction as theory
from paper_figures import style
from paper_figures.page import report
from paper_figures.records import CONFIGURATION, Records
from paper_figures.text import for_readers, network_label, percent, plural, setting, span


@report.table("reconstruction", shown=for_readers)
def error_table(records: Records) -> pd.DataFrame:
    """Relative reconstruction error by network, delay and rule: mean, min, max over n (stage, seed, partition)."""
    probed = records.reconstruction[records.reconstruction["delay"] > 0]
    rows = probed.groupby(["network", "delay", "strategy"])["relative_error"].agg(["mean", "min", "max", "count"])
    return records.sorted(rows.rename(columns={"count": "n"}).reset_index())


_EXACT = 1e-4
"""Errors below this are exact to rounding: named in the note of the first figure, and drawn in none."""


_CORRELATED = 0.005
"""The least fitted correlation that counts as one."""


_ALIKE = 0.1
"""Raw-gradient forms are not drawn if all of them differ from the averages of updates by less, relative to these."""


SHOWN = ("ema-0.9", "ema-window", "ema-running", "ema-span", "ema-lsq", "pair")
"""The strategies beside theory, where they were measured; the correlation is fitted to all that were."""


@report.figure("reconstruction", data="results/reconstruction.csv")
def reconstruction(records: Records) -> Figure:
    """Relative error of the reconstructed weights against the delay; 1 is no better than the latest weights."""
    table = error_table(records)
    table = table[(table["strategy"] != LATEST) & table["mean"].notna()]
    exact, drawn = table[table["max"] < _EXACT], table[table["max"] >= _EXACT]
    alike = _raw_alike(drawn)
    drawn = drawn[~drawn["strategy"].isin(alike)]
    networks = [name for name in records.networks if name in set(table["network"])] or records.networks[:1]
    figure, axes = style.panels(
        networks, 3.5, "delay (updates)", "relative error of reconstructed\nweights (log scale)"
    )
    for network, axis in axes.items():
        _draw(axis, drawn[drawn["network"] == network])
    style.legend(
        figure, _handles(drawn), title="How far recalled weights are from the old ones; 1 is as far as the latest"
    )
    style.note(figure, _note(records, table, exact, alike))
    return figure


def _draw(axis: Any, table: pd.DataFrame) -> None:
    latest = look(LATEST)
    axis.axhline(1.0, color=latest.colour, linestyle=latest.dash, linewidth=1.2, zorder=1)
    for strategy in ordered(table["strategy"]):
        rows, looks = table[table["strategy"] == strategy].sort_values("delay"), look(strategy)
        axis.fill_between(rows["delay"], rows["min"], rows["max"], color=looks.colour, alpha=0.12, linewidth=0)
        axis.plot(rows["delay"], rows["mean"], **(style.line(strategy) if looks.filled else _raw_line(looks.colour)))
    delays = sorted(set(table["delay"]))
    axis.xaxis.set_major_locator(FixedLocator(delays) if len(delays) < 9 else MaxNLocator(7, steps=[1, 2, 4, 10]))
    style.log_ticks(axis, (1, 2, 5))


def _handles(table: pd.DataFrame) -> list[Line2D]:
    latest = look(LATEST)
    reference = style.handle("latest weights (error 1)", color=latest.colour, linestyle=latest.dash)
    filled = [name for name in table["strategy"].unique() if look(name).filled]
    handles = [reference, *style.handles(filled)]
    if not set(table["strategy"]) <= set(filled):
        handles.append(style.handle("raw-gradient form (same colours)", **_raw_line("#444444")))
    return handles


def _raw_line(color: str) -> dict[str, Any]:
    # The raw-gradient forms lie on top of each other: thin, without markers.
    return {"color": color, "linestyle": (0, (1, 1.5)), "linewidth": 1.0}


def _raw_alike(table: pd.DataFrame) -> list[str]:
    """The raw-gradient forms, if they lie on top of the averages of updates, as without momentum."""
    means = table.pivot_table(index=["network", "delay"], columns="strategy", values="mean")
    raw = [name for name in means if find_strategy(name).raw and name.removesuffix("-raw") in means]
    off = [(means[name] / means[name.removesuffix("-raw")] - 1).abs().max() for name in raw]
    return raw if max(off, default=0.0) < _ALIKE else []


def _note(records: Records, table: pd.DataFrame, exact: pd.DataFrame, alike: list[str]) -> str:
    counts = f"{table['n'].min()} to {table['n'].max()}" if len(table) else "0"
    seeds = records.reconstruction["seed"].nunique()
    text = (
        f"|Ŵ − W(t−d)| / |W(t) − W(t−d)| along stash runs, mean over n = {counts} (stage, partition, seed) per "
        f"point, {plural(seeds, 'seed')};\nbands: range. "
        f"{setting(records.dataset, records.convention)}"
    )
    if len(exact):
        names = [_where_exact(name, table, exact) for name in ordered(exact["strategy"])]
        text += f"\nNot drawn, exact to rounding (at most {exact['max'].max():.1g}): {', '.join(names)}."
    if alike:
        text += f"\nNot drawn, within {percent(_ALIKE)} of the averages drawn: the same over learning rate × gradient."
    return text


def _where_exact(strategy: str, table: pd.DataFrame, exact: pd.DataFrame) -> str:
    delays = sorted(set(exact.loc[exact["strategy"] == strategy, "delay"]))
    everywhere = delays == sorted(set(table.loc[table["strategy"] == strategy, "delay"]))
    where = "" if everywhere else f" (delay {', '.join(map(str, delays))})"
    return find_strategy(strategy).label + where


@report.figure("reconstruction_theory", data="results/reconstruction.csv")
def reconstruction_theory(records: Records) -> Figure:
    """Measured error over the error that theory predicts, with the optimizer's momentum for the correlation."""
    momentum = records.runs.groupby(CONFIGURATION)["momentum"].first().reset_index()
    return draw(records.reconstruction.merge(momentum, on=CONFIGURATION), records.dataset, records.convention)


@style.drawn
def draw(measured: pd.DataFrame, dataset: str, convention: str) -> Figure:
    """The same from rows ``network, momentum, seed, delay, strategy, relative_error``: a panel per network, momentum.

    Where a correlation and a white part fit all averages that were measured, a second row has these instead.
    """
    kept = measured[(measured["delay"] > 0) & measured["relative_error"].notna()]
    kept = kept[kept["strategy"].isin(SHOWN)].assign(momentum=kept["momentum"].fillna(0.0))
    groups = list(kept.groupby(["network", "momentum"], sort=True))
    fits = [theory.fitted(rows.to_dict("records")) for _, rows in groups]
    correlated = any(fit.correlation >= _CORRELATED for fit in fits) or not fits
    height, rows = (4.4, 2) if correlated else (2.6, 1)
    figure, axes = style.canvas(height, max(1, len(groups)), rows, sharex="col", sharey=True)
    for column, ((network, momentum), measurements), fit in zip(axes.T, groups, fits, strict=False):
        column[0].set_title(f"{network_label(str(network))}, m = {momentum:g}")
        _panel(column[0], measurements, Updates(float(momentum)))
        if correlated:
            share = fit.white / (1 + fit.white)
            column[1].set_title(f"fit: m = {fit.correlation:.2f}, {100 * share:.0f} % white")
            _panel(column[1], measurements, fit)
        column[-1].set_xlabel("delay (updates)")
    figure.supylabel("measured over predicted\nerror (log scale)", fontsize=8)
    style.legend(
        figure, style.handles(_shown(kept)), 6, "Measured errors of reconstruction, over those that theory predicts"
    )
    style.note(figure, _theory_note(kept, dataset, convention, correlated))
    return figure


@report.value
def misfit(records: Records) -> str:
    """By strategy the least and the largest mean error over its theory, less one, over networks and delays.

    The theory is that of the figure's upper row, with the optimizer's momentum for the correlation.
    """
    found: dict[str, list[float]] = {}
    momentum = records.runs.groupby("network")["momentum"].first()
    means = records.reconstruction.groupby(["network", "strategy", "delay"])["relative_error"].mean()
    for (network, strategy, delay), measured in means.items():
        if strategy in SHOWN and delay > 0 and measured > _EXACT:
            expected = theory.error(strategy, int(delay), Updates(float(momentum[network])))
            if expected > _EXACT:
                found.setdefault(strategy, []).append(float(measured) / expected - 1)
    ends = {name: (percent(min(found[name]), "+.0f"), percent(max(found[name]), "+.0f")) for name in ordered(found)}
    return "; ".join(f"{find_strategy(name).label} {low} to {high}" for name, (low, high) in ends.items()) or "none"


def _panel(axis: Any, rows: pd.DataFrame, updates: Updates) -> None:
    axis.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    for strategy in _shown(rows):
        errors = rows[rows["strategy"] == strategy].groupby("delay")["relative_error"].agg(["mean", "min", "max"])
        expected = np.array([theory.error(strategy, int(delay), updates) for delay in errors.index])
        ratios = errors[expected > _EXACT].div(expected[expected > _EXACT], axis=0)
        axis.fill_between(ratios.index, ratios["min"], ratios["max"], color=look(strategy).colour, alpha=0.12, lw=0)
        axis.plot(ratios.index, ratios["mean"], **style.line(strategy))
    style.log_ticks(axis, (1, 1.5, 2, 3, 5, 7))
    axis.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 4, 10], integer=True))


def _shown(rows: pd.DataFrame) -> list[str]:
    return ordered(set(SHOWN) & set(rows["strategy"]))


def _theory_note(rows: pd.DataFrame, dataset: str, convention: str, correlated: bool) -> str:
    counts = rows[rows["strategy"].isin(SHOWN)].groupby(["network", "momentum", "strategy", "delay"]).size()
    fit = "above, the optimizer's momentum; below, fitted with a white part"
    how = fit if correlated else "the optimizer's momentum (a fit finds none either)"
    return (
        f"1: as predicted, for updates that are AR(1) with correlation m: {how}.\n"
        f"Measured along stash runs, mean of n = {span(counts)} (stage, partition, seed) per point; bands: range.\n"
        + setting(dataset, convention)
    )
