"""Figure of the reconstruction error of each decay rule, measured on exactly stashed runs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from layerpipe2.history import find_strategy
from paper_figures import style
from paper_figures.designs import LATEST
from paper_figures.records.training import Records
from paper_figures.tables import training as tables
from paper_figures.text import plural, setting

_EXACT = 1e-4
"""A rule whose error at a delay never exceeds this is exact there, to rounding: named in the note, not drawn."""


def reconstruction(records: Records) -> Figure:
    """Relative error of the reconstructed weights against the delay; 1 is no better than the latest weights."""
    table = tables.reconstruction(records)
    table = table[(table["strategy"] != LATEST) & table["mean"].notna()]
    exact, drawn = table[table["max"] < _EXACT], table[table["max"] >= _EXACT]
    networks = [name for name in records.networks if name in set(table["network"])] or records.networks[:1]
    with style.context():
        figure, axes = style.panels(networks, 2.7, "relative error of reconstructed\nweights (log scale)")
        for network, axis in axes.items():
            _draw(axis, drawn[drawn["network"] == network])
            axis.set_xlabel("delay (updates)")
        style.legend(figure, _handles(drawn))
        style.note(figure, _note(records, table, exact))
        return figure


def _draw(axis: Any, table: pd.DataFrame) -> None:
    latest = find_strategy(LATEST)
    axis.axhline(1.0, color=latest.colour, linestyle=latest.dash, linewidth=1.2, zorder=1)
    for strategy in style.ordered(table["strategy"]):
        rows, looks = table[table["strategy"] == strategy].sort_values("delay"), find_strategy(strategy)
        axis.fill_between(rows["delay"], rows["min"], rows["max"], color=looks.colour, alpha=0.12, linewidth=0)
        axis.plot(rows["delay"], rows["mean"], **(style.line(strategy) if looks.filled else _raw_line(looks.colour)))
    delays = sorted(set(table["delay"]))
    axis.xaxis.set_major_locator(FixedLocator(delays) if len(delays) < 9 else MaxNLocator(7, steps=[1, 2, 4, 10]))
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def _handles(table: pd.DataFrame) -> list[Line2D]:
    latest = find_strategy(LATEST)
    reference = style.handle("latest weights (error 1)", color=latest.colour, linestyle=latest.dash)
    looks = [find_strategy(name) for name in style.ordered(table["strategy"])]
    handles = [reference, *(style.handle(s.label, **style.line(s.name)) for s in looks if s.filled)]
    if any(not s.filled for s in looks):
        handles.append(style.handle("raw-gradient form (same colors)", **_raw_line("#444444")))
    return handles


def _raw_line(color: str) -> dict[str, Any]:
    # The raw-gradient forms lie on top of each other: thin, without markers.
    return {"color": color, "linestyle": (0, (1, 1.5)), "linewidth": 1.0}


def _note(records: Records, table: pd.DataFrame, exact: pd.DataFrame) -> str:
    counts = f"{table['n'].min()} to {table['n'].max()}" if len(table) else "0"
    seeds = records.reconstruction["seed"].nunique()
    text = (
        f"|Ŵ − W(t−d)| / |W(t) − W(t−d)| along stash runs, mean over n = {counts} (stage, partition, seed) per "
        f"point, {plural(seeds, 'seed')};\nbands: range. "
        f"{setting(records.dataset, records.convention)}"
    )
    if len(exact):
        names = [_where_exact(name, table, exact) for name in style.ordered(exact["strategy"])]
        text += f"\nNot drawn, exact to rounding (at most {exact['max'].max():.1g}): {', '.join(names)}."
    return text


def _where_exact(strategy: str, table: pd.DataFrame, exact: pd.DataFrame) -> str:
    delays = sorted(set(exact.loc[exact["strategy"] == strategy, "delay"]))
    everywhere = delays == sorted(set(table.loc[table["strategy"] == strategy, "delay"]))
    where = "" if everywhere else f" (delay {', '.join(map(str, delays))})"
    return find_strategy(strategy).label + where
