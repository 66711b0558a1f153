"""Figures of how the default experiment's strategies were tuned: one study each, all with the same space and budget."""

from typing import Any

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from layerpipe2.lab.looks import ordered
from paper_figures import style
from paper_figures.records.training import Records
from paper_figures.text import network_label

LOWEST = 0.8
"""Share of validation images: what lies below has hardly learnt, and would press the rest together."""
COLOURS = "viridis"
CHOSEN = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "color": "#cc3311", "markeredgewidth": 1.2}
PRUNED = {"marker": "o", "markersize": 4, "markerfacecolor": "none", "color": "#888888"}
DIVERGED = {"marker": "x", "markersize": 4, "color": "#888888"}


def rates(records: Records) -> Figure:
    """Every trial of every strategy at its learning rate: completed in the colour of its accuracy, pruned, diverged."""
    trials = _tuning(records)
    names = ordered(trials["strategy"])
    with style.context():
        figure, axes = style.canvas(0.9 + 0.2 * len(names), columns=len(records.networks), sharey=True)
        scale = Normalize(100 * LOWEST, 100)
        for network, axis in zip(records.networks, axes.flat, strict=True):
            _draw_rates(axis, trials[trials["network"] == network], names, scale)
            axis.set(title=network_label(network), xlabel="learning rate")
        axes.flat[0].set_yticks(range(len(names)), style.labels(names))
        axes.flat[0].invert_yaxis()
        bar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=axes, extend="min", fraction=0.03, pad=0.01)
        bar.set_label("validation accuracy (%)")
        marks = ((CHOSEN, "chosen"), (PRUNED, "pruned"), (DIVERGED, "diverged"))
        style.legend(figure, [style.handle(word, linestyle="", **look) for look, word in marks])
        style.note(figure, f"One dot per trial (n={len(trials)}), at each network's largest number of stages.")
        return figure


def _draw_rates(axis: Any, trials: pd.DataFrame, names: list[str], scale: Normalize) -> None:
    for place, name in enumerate(names):
        mine = trials[trials["strategy"] == name]
        done = mine[mine["status"] == "completed"]
        axis.scatter(done["lr"], [place] * len(done), c=100 * done["val_accuracy"], norm=scale, cmap=COLOURS, s=22)
        for status, look in (("pruned", PRUNED), ("diverged", DIVERGED)):
            there = mine.loc[mine["status"] == status, "lr"]
            axis.plot(there, [place] * len(there), linestyle="", **look)
        if len(done):
            axis.plot([chosen(done)["lr"]], [place], linestyle="", **CHOSEN)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(-0.6, len(names) - 0.4)


def chosen(trials: pd.DataFrame) -> pd.Series:
    """Of one strategy's completed trials the best, of equals the first."""
    first = trials.sort_values(["round", "trial"])
    return first.loc[first["val_accuracy"].idxmax()]


def history(records: Records) -> Figure:
    """Best validation accuracy after so many trials, and how many of them were pruned or have diverged."""
    trials = _tuning(records)
    with style.context():
        figure, panels = style.panels(records.networks, 2.4, "trials", "best validation accuracy (%)")
        for network, axis in panels.items():
            mine = trials[trials["network"] == network]
            for name in ordered(mine["strategy"]):
                done = mine[mine["strategy"] == name].sort_values(["round", "trial"])
                best = done["val_accuracy"].where(done["status"] == "completed").cummax().ffill()
                axis.step(range(1, len(done) + 1), 100 * best, where="post", **style.line(name, markersize=3))
            axis.set_ylim(100 * LOWEST, 100.5)
            style.integer_ticks(axis)
        style.legend(figure, style.handles(trials["strategy"]), columns=5)
        counts = trials["status"].value_counts()
        told = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("completed", "pruned", "diverged"))
        style.note(figure, f"One study of each strategy; more trials follow where a range was moved. All: {told}.")
        return figure


def _tuning(records: Records) -> pd.DataFrame:
    assert records.tuning is not None, "the catalogue has these figures of tuned experiments alone"
    return records.tuning
