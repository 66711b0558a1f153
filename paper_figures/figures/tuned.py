"""Figures of a tuned experiment."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.history import find_strategy
from paper_figures import style
from paper_figures.claims.tuned import against_stash
from paper_figures.comparisons import Settings
from paper_figures.designs import SEQUENTIAL
from paper_figures.records.tuned import TunedRecords
from paper_figures.text import law_of, setting, span


def accuracy(records: TunedRecords) -> Figure:
    """Mean test accuracy against the number of stages, with every seed as a dot; one panel per optimizer."""
    runs = records.runs[records.runs["strategy"].map(lambda name: find_strategy(name).filled)]
    with style.context():
        optimizers = list(dict.fromkeys(runs["optimizer"]))
        figure, axes = style.canvas(3.0, columns=len(optimizers), sharey=True)
        for axis, optimizer in zip(axes.flat, optimizers, strict=True):
            _draw_accuracy(axis, runs[runs["optimizer"] == optimizer])
            axis.set(title=optimizer, xlabel="pipeline stages")
        axes.flat[0].set_ylabel("test accuracy (%)")
        style.legend(figure, style.handles(runs["strategy"]), columns=5)
        done = runs[runs["status"] == "completed"].groupby(["optimizer", "num_stages", "strategy"]).size()
        where = setting(str(runs["dataset"].iloc[0]), law_of(runs))
        style.note(figure, f"Lines: means over n={span(done)} seeds (dots). Diverged runs are left out. {where}")
        return figure


def _draw_accuracy(axis: Any, runs: pd.DataFrame) -> None:
    done = runs[runs["status"] == "completed"].assign(percent=lambda r: 100 * r["test_accuracy"])
    base = done.loc[done["strategy"] == SEQUENTIAL, "percent"].mean()
    axis.axhline(base, **style.line(SEQUENTIAL, marker=""))
    names = style.ordered(done.loc[done["strategy"] != SEQUENTIAL, "strategy"])
    stages = sorted(done.loc[done["num_stages"] > 1, "num_stages"].unique())
    for place, name in enumerate(names):
        shift = 0.3 * (place - (len(names) - 1) / 2) / max(1, len(names))
        mine = done[done["strategy"] == name]
        means = mine.groupby("num_stages")["percent"].mean()
        look = find_strategy(name)
        axis.plot([stages.index(s) + shift for s in means.index], means.to_numpy(), **style.line(name))
        xs = [stages.index(s) + shift for s in mine["num_stages"]]
        axis.scatter(xs, mine["percent"], s=4, color=look.colour, alpha=0.6, linewidths=0)
    axis.set_xticks(range(len(stages)), [str(s) for s in stages])


def differences(records: TunedRecords, settings: Settings) -> Figure:
    """Each reconstruction minus exact stashing, with its interval and the margin of equivalence."""
    table = against_stash(records.runs, settings)
    table = table[table["n"] > 0]
    cells = list(dict.fromkeys(zip(table["optimizer"], table["num_stages"], strict=True)))
    names = style.ordered(table["strategy"])
    with style.context():
        columns = max(1, table["num_stages"].nunique())
        rows = max(1, -(-len(cells) // columns))
        height = 1.0 + rows * (0.5 + 0.16 * len(names))
        figure, axes = style.canvas(height, columns, rows, len(cells), sharex=True, sharey=True)
        for axis, (optimizer, stages) in zip(axes.flat, cells, strict=False):
            mine = table[(table["optimizer"] == optimizer) & (table["num_stages"] == stages)]
            _draw_differences(axis, mine, names, settings)
            axis.set_title(f"{optimizer}, {stages} stages")
        axes[0, 0].invert_yaxis()
        figure.supxlabel("test accuracy minus exact stashing (points)", fontsize=8)
        return figure


def _draw_differences(axis: Any, table: pd.DataFrame, names: list[str], settings: Settings) -> None:
    axis.axvspan(-settings.margin, settings.margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color="#888888", linewidth=0.6)
    for row in table.to_dict("records"):
        look, y = find_strategy(row["strategy"]), names.index(row["strategy"])
        if row["n"] > 1:
            axis.plot([row["low"], row["high"]], [y, y], color=look.colour, linewidth=1.2)
        axis.plot([row["mean"]], [y], **style.line(row["strategy"], linestyle=""))
    axis.set_ylim(-0.5, len(names) - 0.5)
    axis.set_yticks(range(len(names)), [find_strategy(name).label for name in names])
