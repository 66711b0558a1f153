"""Figures of schedules: Gantt charts, speed over PipeDream, and how far that depends on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from layerpipe2.costs import Costs, FlopDevice, StageWork, Work, uniform_costs
from layerpipe2.costs.reference import REFERENCE
from layerpipe2.delays import DelaySchedule
from layerpipe2.schedules import Timeline, build_schedule, repeat, simulate
from layerpipe2.schedules.compare import grouped
from layerpipe2.schedules.layerpipe import layerpipe
from paper_figures import style

NAMES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "interleaved 1F1B",
    "zb-h1": "zero-bubble H1",
    "pipedream": "PipeDream",
    "layerpipe": "LayerPipe (our reading)",
    "layerpipe2": "LayerPipe2",
}
_LOOKS: dict[str, dict[str, Any]] = {
    "layerpipe": {"color": "#d55e00", "marker": "o", "linestyle": (0, ()), "linewidth": 1.6},
    "layerpipe2": {"color": "#0072b2", "marker": "s", "linestyle": (0, (5, 1.5))},
    "pipedream": {"color": "#000000", "marker": "", "linestyle": (0, (4, 2)), "linewidth": 0.8},
    "zb-h1": {"color": "#009e73", "marker": "^", "linestyle": (0, (1, 1))},
    "1f1b": {"color": "#e69f00", "marker": "v", "linestyle": (0, (3, 1, 1, 1))},
    "gpipe": {"color": "#cc79a7", "marker": "D", "linestyle": (0, (1, 2)), "markersize": 3},
    "interleaved": {"color": "#7a4b1e", "marker": "P", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
}
_KINDS = {
    "F": ("forward", "#9ad0f0"),
    "B": ("activation gradient", "#f0c060"),
    **dict.fromkeys(("B1", "B2"), ("half of it", "#f8e2b0")),
    "W": ("weight gradient", "#e89a6a"),
    "BW": ("whole backward pass", "#d9b3cc"),
}
ANCHORS = (1.25, 1.80)  # LayerPipe's abstract: speed over PipeDream on average, and at most with 7 to 9 processors


def gantt(processors: int = 4, until: int = 30) -> Figure:
    """Equal stages, F = B = W = 1: every schedule with whole stages; numbers are batches, grey is idle."""
    lines = {}
    for name in ("gpipe", "1f1b", "interleaved", "zb-h1", "pipedream", "layerpipe2"):
        stages, time = (2 * processors, 0.5) if name == "interleaved" else (processors, 1.0)
        schedule = build_schedule(name, stages, processors, 16 if name in ("pipedream", "layerpipe2") else 8)
        schedule = schedule if schedule.batches_per_update == 1 else repeat(schedule, 2)
        lines[NAMES[name]] = simulate(schedule, uniform_costs(stages, time, time, time), FlopDevice(1.0))
    note = f"{processors} equal stages (interleaved: {2 * processors} half as long), all tasks 1, 8 micro-batches per "
    return _charts(lines, (0, until), note + "update for the first four; grey: waiting.")


UNEQUAL = (8, 2, 6, 4, 2)
"""Times of F, B and W of five layers, to show what finer tasks do."""


def gantt_unequal(processors: int = 4, window: tuple[int, int] = (190, 246)) -> Figure:
    """Five layers of unequal times on four processors, steady state: whole layers per stage, and LayerPipe's tasks."""
    works = tuple(StageWork(*(Work(t),) * 3) for t in UNEQUAL)
    units, device = Costs(works, DelaySchedule.none(len(works))), FlopDevice(1.0)
    stages = grouped(units, processors, device)
    lines = {
        NAMES[name]: simulate(build_schedule(name, processors, processors, 24), stages, device)
        for name in ("pipedream", "layerpipe2")
    }
    lines[NAMES["layerpipe"]] = simulate(layerpipe(len(works), processors, 24, units, device), units, device)
    lines = {f"{name}: a batch every {line.period:.3g}": line for name, line in lines.items()}
    times = " ".join(map(str, UNEQUAL))
    note = (
        f"Five layers a to e; F, B and W of each take {times}. LayerPipe: layer and batch; others: batch of the stage."
    )
    return _charts(lines, window, note, layers=len(works))


def _charts(lines: dict[str, Timeline], window: tuple[float, float], note: str, layers: int = 0) -> Figure:
    rows = sum(line.schedule.num_processors for line in lines.values())
    with style.context(), mpl.rc_context({"axes.grid": False}):
        figure, axes = style.canvas(0.8 + 0.15 * rows + 0.24 * len(lines), 1, len(lines), sharex=True)
        for axis, (title, line) in zip(axes.flat, lines.items(), strict=True):
            _draw_chart(axis, line, window, line.schedule.num_stages == layers)
            axis.set_title(title, loc="left", pad=2)
        axes.flat[-1].set_xlabel("time (units of one task)" if not layers else "time")
        used = {event.action.kind for line in lines.values() for event in line.events}
        labels = {text: color for kind, (text, color) in _KINDS.items() if kind in used}
        handles = [Patch(facecolor=color, edgecolor="#555555", label=text) for text, color in labels.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        style.note(figure, note)
        return figure


def _draw_chart(axis: Any, line: Timeline, window: tuple[float, float], letters: bool) -> None:
    count = line.schedule.num_processors
    axis.set(xlim=window, ylim=(count - 0.5, -0.5), yticks=range(count), facecolor="#e4e4e4")
    axis.set_yticklabels([f"P{p}" for p in range(count)])
    axis.tick_params(length=0, pad=2)
    for p, action, start, end in line.events:
        left, right = max(start, window[0]), min(end, window[1])
        if right <= left:
            continue
        color = _KINDS[action.kind][1]
        axis.add_patch(
            Rectangle((start, p - 0.46), end - start, 0.92, facecolor=color, edgecolor="white", linewidth=0.5)
        )
        label = f"{'abcdefghij'[action.stage]}{action.batch}" if letters else str(action.batch)
        if (right - left) / (window[1] - window[0]) > 0.011 * len(label):
            axis.text((left + right) / 2, p, label, ha="center", va="center_baseline", fontsize=7)


def speeds(table: pd.DataFrame) -> Figure:
    """Speed over PipeDream against the number of processors, a panel per network; LayerPipe's abstract as grey lines.

    Args:
        table: of :func:`paper_figures.tables_costs.schedules`.
    """
    names = list(dict.fromkeys(table["network"]))
    with style.context():
        figure, axes = style.canvas(4.2, 3, 2, sharey=True, sharex=True)
        for axis, name in zip(axes.flat, names, strict=False):
            _anchors(axis)
            for schedule, looks in _LOOKS.items():
                mine = table[(table["network"] == name) & (table["schedule"] == schedule)]
                axis.plot(mine["processors"], mine["speed"], clip_on=False, **looks)
            axis.set_title(REFERENCE[name].label)
            axis.set_xticks(sorted(set(table["processors"])))
            axis.tick_params(labelbottom=True)
        for spare in axes.flat[len(names) :]:
            spare.axis("off")
            handles = [Line2D([], [], label=NAMES[s], **looks) for s, looks in _LOOKS.items()]
            spare.legend(handles=[*handles, _anchor_handle()], loc="center left", borderaxespad=0)
        for axis in axes.flat[max(0, len(names) - 3) : len(names)]:
            axis.set_xlabel("processors")
        figure.supylabel("speed over PipeDream", fontsize=8)
        style.note(
            figure,
            "Modelled: 128 × 128 systolic arrays at 1 GHz, links 64 GB/s, batches of 32. AlexNet has 8 stages at most.",
        )
        return figure


def _anchors(axis: Any) -> None:
    axis.fill_between((7, 9), *ANCHORS, color="#dddddd", zorder=0, linewidth=0)
    for height in ANCHORS:
        axis.axhline(height, color="#777777", linewidth=0.8, zorder=1)


def _anchor_handle() -> Patch:
    return Patch(facecolor="#dddddd", edgecolor="#777777", label="LayerPipe's abstract:\n+25 % mean, +80 % at most")


def devices(table: pd.DataFrame) -> Figure:
    """LayerPipe's speed over PipeDream on every device: a mark per network and number of processors, and the mean.

    Args:
        table: of :func:`paper_figures.tables_costs.layerpipe_over_devices`.
    """
    labels = list(dict.fromkeys(table["device"]))[::-1]
    networks = list(dict.fromkeys(table["network"]))
    with style.context():
        figure, axes = style.canvas(2.7, 2, 1, sharey=True, sharex=True)
        for axis, (low, high) in zip(axes[0], ((3, 6), (7, 9)), strict=True):
            for height in ANCHORS:
                axis.axvline(height, color="#777777", linewidth=0.8, zorder=1)
            axis.axvline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
            mine = table[(table["schedule"] == "layerpipe") & table["processors"].between(low, high)]
            _draw_marks(axis, mine, labels, networks)
            axis.set_title(f"{low} to {high} processors")
            axis.set_xlabel("speed of LayerPipe over PipeDream")
        axes[0, 0].set_yticks(range(len(labels)), labels)
        handles = [Line2D([], [], linestyle="", label=REFERENCE[n].label, **_mark(i)) for i, n in enumerate(networks)]
        mean = Line2D([], [], linestyle="", marker="|", color="black", markersize=11, markeredgewidth=2, label="mean")
        style.legend(figure, [*handles, mean], columns=6)
        style.note(
            figure, "LayerPipe in our reading, modelled. Grey lines: its abstract, +25 % on average, +80 % at most."
        )
        return figure


def _mark(index: int) -> dict[str, Any]:
    color = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7")[index % 5]
    return {"color": color, "marker": "osDv^"[index % 5], "markersize": 4, "markeredgecolor": "white", "mew": 0.3}


def _draw_marks(axis: Any, mine: pd.DataFrame, labels: Sequence[str], networks: Sequence[str]) -> None:
    for height, label in enumerate(labels):
        here = mine[mine["device"] == label]
        for index, network in enumerate(networks):
            speeds = here.loc[here["network"] == network, "speed"]
            shift = np.full(len(speeds), height + 0.13 * (2 - index))
            axis.plot(speeds, shift, linestyle="", clip_on=False, **_mark(index))
        axis.plot(here["speed"].mean(), height, marker="|", color="black", markersize=14, markeredgewidth=2, zorder=2.5)
