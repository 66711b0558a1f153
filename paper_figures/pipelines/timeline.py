"""Who computes when, from time stamps: the bubble, its table, and timelines."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.planning.variants import Variant
from paper_figures import style, variant_style
from paper_figures.pipelines.benchmark import COMPUTING, Benchmark, Steady, pipelines
from paper_figures.text import percent
from paper_figures.verdicts import SMALLER, Answer, Verdict


@pipelines.claim(place=6)
def idle(bench: Benchmark) -> Verdict:
    """The bubble, from time stamps."""
    found = bench.steady
    shares = [
        f"{variant_style.label(name)}: {percent(s.mean_idle)} of {s.period:.1f} ms per mini-batch"
        for name, s in found.items()
    ]
    kinds = (variant_style.is_candidate, variant_style.is_torch)
    ours, theirs = ([s.mean_idle for name, s in found.items() if of(name)] for of in kinds)
    reached = Answer.YES if max(ours, default=0) < min(theirs, default=0) else Answer.NO
    answer = reached if ours and theirs else Answer.NOT_TESTED
    text = "Share of time in which a process computes nothing, in the steady state, from time stamps of one run each"
    return Verdict("Bubble", answer, SMALLER, evidence=(f"{text}: {'; '.join(shares)}.",))


@pipelines.value
def waiting(bench: Benchmark) -> str:
    """Which of the variants waits least, and which most; empty if none was traced."""
    return _title(bench.steady) if bench.traces else ""


@pipelines.table("idle", when=lambda bench: bench.traces)
def idle_table(bench: Benchmark) -> pd.DataFrame:
    """How much of their time the processes wait, by variant, from the time stamps."""
    found = bench.steady.values()
    columns = {
        "variant": [variant_style.label(name) for name in bench.traces],
        "idle": [percent(s.mean_idle, ".1f") for s in found],
        "by process": [", ".join(percent(share, ".1f") for share in s.idle) for s in found],
        "ms per mini-batch": [f"{s.period:.1f}" for s in found],
        "mini-batches": [str(s.batches) for s in found],
    }
    return pd.DataFrame(columns)


_TEXTS = {text: text for text in style.TASKS} | {"weight gradient": "weight gradient, update"}


_SHOWN = 2.5  # mini-batches of the slowest pipeline


@pipelines.value
def kinds(bench: Benchmark) -> dict[str, list[str]]:
    """Traced variants by the figure that shows them: those without delays have their own."""
    exact = [name for name in bench.traces if Variant.parse(name).kind == "exact"]
    kinds = {"timeline": [name for name in bench.traces if name not in exact], "timeline_split": exact}
    return {kind: names for kind, names in kinds.items() if names}


@pipelines.figure("{kind}", each="kind in kinds", data="idle")
def draw(bench: Benchmark, kind: str) -> Figure:
    """These variants one above the other, each in its steady state, on one axis of time."""
    names = kinds(bench)[kind]
    traces, found = bench.traces, {name: bench.steady[name] for name in names}
    width = _SHOWN * max(s.period for s in found.values())
    ranks = {name: len(s.idle) for name, s in found.items()}
    with mpl.rc_context({"axes.grid": False}):
        height = 0.9 + sum(0.27 * count + 0.3 for count in ranks.values())
        figure, axes = style.canvas(height, 1, len(names), sharex=True, height_ratios=list(ranks.values()))
        for axis, name in zip(axes.flat, names, strict=True):
            _draw_events(axis, traces[name].assign(task=_tasks(traces[name], name)), found[name], width)
            words = f"{percent(found[name].mean_idle)} idle, {found[name].period:.1f} ms per mini-batch"
            axis.set_title(f"{variant_style.label(name)}: {words}", loc="left", pad=3)
        axes.flat[-1].set_xlabel("time (ms)")
        there = {task for name in names for task in _tasks(traces[name], name)}
        style.task_legend(figure, {what: text for what, text in _TEXTS.items() if what in there}, _title(found))
        style.note(figure, "Time stamps of single runs in the steady state; numbers are mini-batches.")
        return figure


def _tasks(events: pd.DataFrame, name: str) -> pd.Series:
    """What each event computes, in the words of :data:`style.TASKS`."""
    backward = "activation gradient" if Variant.parse(name).split else "whole backward pass"
    words = {"recompute": "forward again", "backward": backward, "weights": "weight gradient"}
    return events["what"].replace(words)


def _title(found: dict[str, Steady]) -> str:
    """Which of the variants waits least, and which most."""
    waiting = sorted(found, key=lambda name: found[name].mean_idle)
    ends = dict.fromkeys((waiting[0], waiting[-1]))
    return ", ".join(f"{variant_style.label(name)} waits {percent(found[name].mean_idle)} of the time" for name in ends)


def _draw_events(axis: Any, events: pd.DataFrame, found: Steady, width: float) -> None:
    count = len(found.idle)
    axis.set(xlim=(0, width), ylim=(count - 0.5, -0.5), facecolor=style.WAITING)
    axis.set_yticks(range(count), [f"process {rank}" for rank in range(count)])
    axis.tick_params(axis="y", length=0)
    inside = events[(events["stop"] > found.start) & (events["start"] < found.start + width)]
    first = int(inside["batch"].min())
    for event in inside[inside["what"].isin(COMPUTING)].to_dict("records"):
        left, length = event["start"] - found.start, event["stop"] - event["start"]
        text = str(event["batch"] - first + 1) if event["what"] != "weights" else ""
        style.task(axis, event["rank"], left, length, text, facecolor=style.TASKS[event["task"]], linewidth=0.4)
