"""Figure of the memory of the stages: measured in their processes, and modelled."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from layerpipe2.history import find_strategy
from paper_figures import style
from paper_figures.records.pipelines import PipelineRecords
from paper_figures.tables.pipelines import totals

_REST = "#c4c4c4"
_MODEL: dict[str, Any] = {"marker": "_", "markersize": 11, "markeredgewidth": 1.6, "color": "#000000", "linestyle": ""}


def memory(records: PipelineRecords) -> Figure:
    """Above, weight history in copies of a stage's weights; below, all that it is known to hold, in MB."""
    table = totals(records.main.memory)
    counts = sorted(table["processes"].unique())
    strategies = style.ordered(table["strategy"])
    with style.context():
        ratios = [count + 0.5 for count in counts]
        figure, axes = style.canvas(4.2, len(counts), 2, sharey="row", sharex="col", width_ratios=ratios)
        for column, count in enumerate(counts):
            mine = table[table["processes"] == count]
            axes[0, column].set_title(f"{count} processes, one stage each")
            _draw(axes[0, column], mine, strategies, "copies", 1.0, 0.0)
            _draw(axes[1, column], mine, strategies, "total", 1e6, mine["rest"])
        axes[0, 0].set_ylabel("weight history\n(copies of the stage's weights)")
        axes[1, 0].set_ylabel("held by the stage (MB)")
        figure.legend(handles=_handles(strategies), loc="outside upper center", ncols=3)
        note = "Bars: measured in the processes. Not in them: gradients, messages under way, torch's working memory."
        style.note(figure, note)
        return figure


def _draw(axis: Any, table: pd.DataFrame, strategies: list[str], column: str, unit: float, base: Any) -> None:
    width = 0.8 / len(strategies)
    for place, strategy in enumerate(strategies):
        mine = table[table["strategy"] == strategy].sort_values("stage")
        xs = mine["stage"] + (place - (len(strategies) - 1) / 2) * width
        bottom = (base[mine.index] if isinstance(base, pd.Series) else base + 0 * mine[column]) / unit
        axis.bar(xs, bottom, 0.92 * width, color=_REST, linewidth=0)
        height, color = mine[column] / unit - bottom, find_strategy(strategy).colour
        axis.bar(xs, height, 0.92 * width, bottom=bottom, color=color, linewidth=0)
        axis.plot(xs, mine[f"modelled_{column}"] / unit, clip_on=False, **_MODEL)
    stages = table.drop_duplicates("stage").sort_values("stage")
    texts = [f"stage {row.stage}\ndelay {row.delay}" for row in stages.itertuples()]
    axis.set_xticks(stages["stage"], texts)
    axis.grid(visible=False, axis="x")
    axis.tick_params(axis="x", length=0)


def _handles(strategies: list[str]) -> list[Any]:
    bars = [Patch(facecolor=find_strategy(s).colour, label=f"history: {find_strategy(s).label}") for s in strategies]
    rest = Patch(facecolor=_REST, label="weights, optimizer, activations")
    return [*bars, rest, style.handle("cost model", **_MODEL)]
