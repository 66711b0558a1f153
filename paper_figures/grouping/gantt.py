"""Gantt charts of simulated schedules."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from layerpipe2.delays import Delays
from layerpipe2.planning import Costs, FlopDevice, StageWork, Work, uniform_costs
from layerpipe2.planning.schedules import SCHEDULES, Timeline, build_schedule, repeat, simulate
from layerpipe2.planning.schedules.compare import grouped
from layerpipe2.planning.schedules.layerpipe import layerpipe
from paper_figures import style
from paper_figures.page import report

_KINDS = {
    "F": "forward",
    "B": "activation gradient",
    **dict.fromkeys(("B1", "B2"), "half of it"),
    "W": "weight gradient",
    "BW": "whole backward pass",
}


_PROCESSORS = 4


@report.value
def equal_stages() -> dict[str, Timeline]:
    """Every schedule with whole stages, all of them equal, F = B = W = 1."""
    lines = {}
    for name, row in SCHEDULES.items():
        if name == "layerpipe":  # cuts stages in two
            continue
        stages, time = row.stages_per_processor * _PROCESSORS, 1 / row.stages_per_processor
        schedule = build_schedule(name, stages, _PROCESSORS, 8 if row.synchronous else 16)
        schedule = schedule if schedule.batches_per_update == 1 else repeat(schedule, 2)
        costs = uniform_costs(stages, time, time, time)
        lines[row.label] = simulate(schedule, costs, FlopDevice(1.0))
    return lines


@report.table("gantt_equal", shown=None)
def equal_tasks(equal_stages: dict[str, Timeline]) -> pd.DataFrame:
    """Every task of the schedules with equal stages."""
    return _tasks(equal_stages)


@report.figure("gantt_equal")
def equal(equal_stages: dict[str, Timeline]) -> Figure:
    """Numbers are batches, grey is idle."""
    halves = f"interleaved: {2 * _PROCESSORS} half as long"
    note = f"{_PROCESSORS} equal stages ({halves}), all tasks 1, 8 micro-batches per update for the first four."
    title = "With late gradients no processor waits once the pipeline is full; without, they wait at every update"
    return _charts(equal_stages, (0, 30), title, note)


UNEQUAL = (8, 2, 6, 4, 2)
"""Times of F, B and W of five layers, to show what finer tasks do."""


@report.value
def unequal_layers() -> dict[str, Timeline]:
    """Five layers of unequal times on four processors, steady state: whole layers per stage, and LayerPipe's tasks."""
    works = tuple(StageWork(*(Work(t),) * 3) for t in UNEQUAL)
    units, device = Costs(works, Delays.none(len(works))), FlopDevice(1.0)
    stages = grouped(units, _PROCESSORS, device)
    lines = {
        SCHEDULES[name].label: simulate(build_schedule(name, _PROCESSORS, _PROCESSORS, 24), stages, device)
        for name in ("pipedream", "layerpipe2")
    }
    finer = layerpipe(len(works), _PROCESSORS, 24, units, device)
    return lines | {SCHEDULES["layerpipe"].label: simulate(finer, units, device)}


@report.table("gantt_unequal", shown=None)
def unequal_tasks(unequal_layers: dict[str, Timeline]) -> pd.DataFrame:
    """Every task of the schedules of unequal layers."""
    return _tasks(unequal_layers)


@report.figure("gantt_unequal")
def unequal(unequal_layers: dict[str, Timeline]) -> Figure:
    """The steady state of the schedules of unequal layers."""
    whole, finer = (unequal_layers[SCHEDULES[name].label].period for name in ("layerpipe2", "layerpipe"))
    title = f"Tasks finer than whole layers balance unequal ones: a batch every {finer:.3g} instead of {whole:.3g}"
    lines = {f"{name}: a batch every {line.period:.3g}": line for name, line in unequal_layers.items()}
    times = " ".join(map(str, UNEQUAL))
    note = f"Five layers a to e; F, B and W of each take {times}. LayerPipe: layer and batch; others: "
    return _charts(lines, (190, 246), title, note + "batch of the stage.", layers=len(UNEQUAL))


def _tasks(lines: dict[str, Timeline]) -> pd.DataFrame:
    """A row per task; stage and batch count from 0, start and end are in the unit of the tasks' times."""
    rows = [
        (
            name,
            event.processor,
            _KINDS[event.action.kind],
            event.action.stage,
            event.action.batch,
            event.start,
            event.end,
        )
        for name, line in lines.items()
        for event in line.events
    ]
    return pd.DataFrame(rows, columns=["schedule", "processor", "task", "stage", "batch", "start", "end"])


@style.drawn
def _charts(lines: dict[str, Timeline], window: tuple[float, float], title: str, note: str, layers: int = 0) -> Figure:
    rows = sum(line.schedule.num_processors for line in lines.values())
    with mpl.rc_context({"axes.grid": False}):
        figure, axes = style.canvas(0.8 + 0.15 * rows + 0.24 * len(lines), 1, len(lines), sharex=True)
        for axis, (name, line) in zip(axes.flat, lines.items(), strict=True):
            _draw_chart(axis, line, window, line.schedule.num_stages == layers)
            axis.set_title(name, loc="left", pad=2)
        axes.flat[-1].set_xlabel("time (units of one task)" if not layers else "time (in the unit of the tasks' times)")
        used = {_KINDS[event.action.kind] for line in lines.values() for event in line.events}
        style.task_legend(figure, {what: what for what in style.TASKS if what in used}, title)
        style.note(figure, note)
        return figure


def _draw_chart(axis: Any, line: Timeline, window: tuple[float, float], letters: bool) -> None:
    count = line.schedule.num_processors
    axis.set(xlim=window, ylim=(count - 0.5, -0.5), facecolor=style.WAITING)
    axis.set_yticks(range(count), [f"P{p}" for p in range(count)])
    axis.tick_params(length=0, pad=2)
    for p, action, start, end in line.events:
        left, right = max(start, window[0]), min(end, window[1])
        if right <= left:
            continue
        looks: dict[str, Any] = {"facecolor": style.TASKS[_KINDS[action.kind]], "edgecolor": "white", "linewidth": 0.5}
        axis.add_patch(Rectangle((start, p - 0.46), end - start, 0.92, **looks))
        label = f"{'abcdefghij'[action.stage]}{action.batch}" if letters else str(action.batch)
        if (right - left) / (window[1] - window[0]) > 0.011 * len(label):
            axis.text((left + right) / 2, p, label, ha="center", va="center_baseline", fontsize=7)
