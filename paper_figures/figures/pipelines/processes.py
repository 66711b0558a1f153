"""Figures of what the processes do and store: timelines from real time stamps, and the memory of the stages."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from paper_figures import style, variant_style
from paper_figures.records.pipelines import COMPUTING, PipelineRecords, Steady
from paper_figures.tables.pipelines import totals
from paper_figures.text import percent

_COLORS = {"forward": "#56b4e9", "recompute": "#0072b2", "backward": "#e69f00", "weights": "#0b5d46"}
_WAITING = "#e2e2e2"
_LABELS = dict(zip(COMPUTING, COMPUTING, strict=True)) | {"weights": "weights: split-off gradients, update"}
_SHOWN = 2.5  # mini-batches of the slowest pipeline
_REST = "#c4c4c4"
_MODEL: dict[str, Any] = {"marker": "_", "markersize": 11, "markeredgewidth": 1.6, "color": "#000000", "linestyle": ""}


def timeline(records: PipelineRecords, names: list[str]) -> Figure:
    """These variants one above the other, each in its steady state, on one axis of time."""
    traces, found = records.main.traces, {name: records.main.steady[name] for name in names}
    width = _SHOWN * max(s.period for s in found.values())
    ranks = {name: len(s.idle) for name, s in found.items()}
    with style.context(), mpl.rc_context({"axes.grid": False}):
        height = 0.9 + sum(0.27 * count + 0.3 for count in ranks.values())
        figure, axes = style.canvas(height, 1, len(names), sharex=True, height_ratios=list(ranks.values()))
        for axis, name in zip(axes.flat, names, strict=True):
            _draw_events(axis, traces[name], found[name], width)
            words = f"{percent(found[name].mean_idle)} idle, {found[name].period:.1f} ms per mini-batch"
            axis.set_title(f"{variant_style.label(name)}: {words}", loc="left", pad=3)
        axes.flat[-1].set_xlabel("time (ms)")
        there = set().union(*(traces[name]["what"] for name in names))
        handles: list[Any] = [
            Patch(facecolor=_COLORS[what], label=_LABELS[what]) for what in COMPUTING if what in there
        ]
        style.legend(figure, [*handles, Patch(facecolor=_WAITING, label="waiting")])
        style.note(figure, "Time stamps of single runs in the steady state; numbers are mini-batches.")
        return figure


def _draw_events(axis: Any, events: pd.DataFrame, found: Steady, width: float) -> None:
    count = len(found.idle)
    axis.set(xlim=(0, width), ylim=(count - 0.5, -0.5), facecolor=_WAITING)
    axis.set_yticks(range(count), [f"process {rank}" for rank in range(count)])
    axis.tick_params(axis="y", length=0)
    inside = events[(events["stop"] > found.start) & (events["start"] < found.start + width)]
    first = int(inside["batch"].min())
    for event in inside[inside["what"].isin(COMPUTING)].to_dict("records"):
        left, length = event["start"] - found.start, event["stop"] - event["start"]
        looks: dict[str, Any] = {"facecolor": _COLORS[event["what"]], "edgecolor": "white", "linewidth": 0.4}
        axis.add_patch(Rectangle((left, event["rank"] - 0.42), length, 0.84, **looks))
        seen = min(left + length, width) - max(left, 0)
        text = str(event["batch"] - first + 1)
        if event["what"] != "weights" and seen > 0.013 * len(text) * width:
            middle = max(left, 0) + seen / 2
            axis.text(middle, event["rank"], text, ha="center", va="center_baseline", fontsize=7)


def memory(records: PipelineRecords) -> Figure:
    """Above, weight history in copies of a stage's weights; below, all that it is known to hold, in MB."""
    table = totals(records.main.memory).assign(nothing=0.0)
    counts = sorted(table["processes"].unique())
    strategies = ordered(table["strategy"])
    with style.context():
        ratios = [count + 0.5 for count in counts]
        figure, axes = style.canvas(4.2, len(counts), 2, sharey="row", sharex="col", width_ratios=ratios)
        for column, count in enumerate(counts):
            mine = table[table["processes"] == count]
            axes[0, column].set_title(f"{count} processes, one stage each")
            _draw_bars(axes[0, column], mine, strategies, "copies", 1.0, "nothing")
            _draw_bars(axes[1, column], mine, strategies, "total", 1e6, "rest")
        axes[0, 0].set_ylabel("weight history\n(copies of the stage's weights)")
        axes[1, 0].set_ylabel("held by the stage (MB)")
        labels = {strategy: f"history: {find_strategy(strategy).label}" for strategy in strategies}
        bars = [Patch(facecolor=look(strategy).colour, label=label) for strategy, label in labels.items()]
        rest = Patch(facecolor=_REST, label="weights, optimizer, activations")
        style.legend(figure, [*bars, rest, style.handle("cost model", **_MODEL)], columns=3)
        note = "Bars: measured in the processes. Not in them: gradients, messages under way, torch's working memory."
        style.note(figure, note)
        return figure


def _draw_bars(axis: Any, table: pd.DataFrame, strategies: list[str], column: str, unit: float, base: str) -> None:
    width = 0.8 / len(strategies)
    for place, strategy in enumerate(strategies):
        mine = table[table["strategy"] == strategy].sort_values("stage")
        xs = mine["stage"] + (place - (len(strategies) - 1) / 2) * width
        bottom = mine[base] / unit
        axis.bar(xs, bottom, 0.92 * width, color=_REST, linewidth=0)
        height, color = mine[column] / unit - bottom, look(strategy).colour
        axis.bar(xs, height, 0.92 * width, bottom=bottom, color=color, linewidth=0)
        axis.plot(xs, mine[f"modelled_{column}"] / unit, clip_on=False, **_MODEL)
    stages = table.drop_duplicates("stage").sort_values("stage")
    texts = [f"stage {row.stage}\ndelay {row.delay}" for row in stages.itertuples()]
    axis.set_xticks(stages["stage"], texts)
    axis.grid(visible=False, axis="x")
    axis.tick_params(axis="x", length=0)
