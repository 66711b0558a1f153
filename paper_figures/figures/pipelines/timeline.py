"""Timelines from real time stamps: who computes when, and the bubble between."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from paper_figures import style, variant_style
from paper_figures.records.pipelines import COMPUTING, PipelineRecords, Steady
from paper_figures.text import percent

_COLORS = {"forward": "#56b4e9", "backward": "#e69f00", "weights": "#0b5d46"}
_IDLE = "#e2e2e2"
_LABELS = {"forward": "forward", "backward": "backward", "weights": "weights: split-off gradients, update"}
_SHOWN = 2.5  # mini-batches of the slowest pipeline


def bubble(records: PipelineRecords) -> Figure:
    """The asynchronous pipeline above torch's, each in its steady state, on one axis of time."""
    return _charts(records, [name for name in records.main.traces if not variant_style.is_exact(name)])


def split(records: PipelineRecords) -> Figure:
    """Two processes without delays, the backward pass whole and split."""
    return _charts(records, [name for name in records.main.traces if variant_style.is_exact(name)])


def _charts(records: PipelineRecords, names: list[str]) -> Figure:
    traces = records.main.traces
    found = {name: records.main.steady[name] for name in names}
    width = _SHOWN * max(s.period for s in found.values())
    ranks = {name: len(s.idle) for name, s in found.items()}
    with style.context(), mpl.rc_context({"axes.grid": False}):
        height = 0.9 + sum(0.27 * count + 0.3 for count in ranks.values())
        figure, axes = style.canvas(height, 1, len(names), sharex=True, height_ratios=list(ranks.values()))
        for axis, name in zip(axes.flat, names, strict=True):
            _draw(axis, traces[name], found[name], width)
            words = f"{percent(found[name].mean_idle)} idle, {found[name].period:.1f} ms per mini-batch"
            axis.set_title(f"{variant_style.label(name)}: {words}", loc="left", pad=3)
        axes.flat[-1].set_xlabel("time (ms)")
        handles: list[Any] = [Patch(facecolor=_COLORS[what], label=_LABELS[what]) for what in COMPUTING]
        figure.legend(handles=[*handles, Patch(facecolor=_IDLE, label="waiting")], loc="outside upper center", ncols=4)
        style.note(figure, "Time stamps of single runs in the steady state; numbers are mini-batches.")
        return figure


def _draw(axis: Any, events: pd.DataFrame, found: Steady, width: float) -> None:
    count = len(found.idle)
    axis.set(xlim=(0, width), ylim=(count - 0.5, -0.5), facecolor=_IDLE)
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
