"""Who computes when, from time stamps: the bubble, its table, and timelines."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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


_COLORS = {"forward": "#56b4e9", "recompute": "#0072b2", "backward": "#e69f00", "weights": "#0b5d46"}


_WAITING = "#e2e2e2"


_LABELS = dict(zip(COMPUTING, COMPUTING, strict=True)) | {"weights": "weights: split-off gradients, update"}


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
        text = str(event["batch"] - first + 1) if event["what"] != "weights" else ""
        style.task(axis, event["rank"], left, length, text, facecolor=_COLORS[event["what"]], linewidth=0.4)
