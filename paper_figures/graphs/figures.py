"""Figures of sampled graphs: who prepares and who trains when, from real time stamps; what an epoch is made of."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures import style
from paper_figures.graphs.record import GraphRecord, graphs
from paper_figures.text import span

_COLORS = dict(zip(("sample", "slice", "transfer", "train"), style.OTHERS[1:], strict=False))


_EPOCHS = "What a mini-batch takes, loader by loader"


_SHOWN = 4.5
"""Mini-batches of the serial loader."""


@graphs.figure("timeline_{record.name}", each="record in records", data="results/graphs/{record.name}/spans.csv")
def timeline(record: GraphRecord) -> Figure:
    """The first mini-batches of each traced loader, one above the other, on one axis of time."""
    spans = {name: rows for name, rows in record.spans.groupby("variant", sort=False) if "float16" not in str(name)}
    serial = next(iter(spans.values()))
    width = _SHOWN * serial["stop"].max() / serial["batch"].nunique()
    threads = {name: _threads(rows) for name, rows in spans.items()}
    with mpl.rc_context({"axes.grid": False}):
        height = 1.0 + sum(0.27 * len(names) + 0.32 for names in threads.values())
        ratios = [len(names) for names in threads.values()]
        figure, axes = style.canvas(height, 1, len(spans), sharex=True, height_ratios=ratios)
        for axis, (name, rows) in zip(axes.flat, spans.items(), strict=True):
            _draw(axis, rows, threads[name], width)
            axis.set_title(str(name), loc="left", pad=3)
        axes.flat[-1].set_xlabel("time (ms)")
        done = [what for what in _COLORS if (record.spans["what"] == what).any()]
        handles: list[Any] = [Patch(facecolor=_COLORS[what], label=what) for what in done]
        style.legend(figure, [*handles, Patch(facecolor=style.WAITING, label="waiting")], columns=5)
        style.note(figure, "Time stamps of the last round's first mini-batches, which the numbers count.")
        return figure


def _threads(rows: pd.DataFrame) -> list[str]:
    """The training first; without other threads it prepares as well."""
    others = sorted(set(rows["thread"]) - {"training", "MainThread"})
    return ["training", *others]


def _draw(axis: Any, rows: pd.DataFrame, threads: list[str], width: float) -> None:
    axis.set(xlim=(0, width), ylim=(len(threads) - 0.5, -0.5), facecolor=style.WAITING)
    axis.set_yticks(range(len(threads)), ["training", *(f"thread {n}" for n in range(1, len(threads)))])
    axis.tick_params(axis="y", length=0)
    for row in rows.to_dict("records"):
        line = threads.index(row["thread"]) if row["thread"] in threads else 0
        text, looks = str(row["batch"]) if row["what"] != "slice" else "", {"facecolor": _COLORS[row["what"]]}
        style.task(axis, line, row["start"], row["stop"] - row["start"], text, linewidth=0.3, **looks)


@graphs.table("epochs", shown=None)
def rounds(records: list[GraphRecord]) -> pd.DataFrame:
    """The times of every round, in ms per mini-batch."""
    return pd.concat([record.times.assign(graph=record.name) for record in records])


@graphs.figure("epochs")
def epochs(records: list[GraphRecord]) -> Figure:
    """Time per mini-batch, as the training sees it, loader by loader: median over rounds; dots are rounds."""
    tallest = max(len(record.variants) for record in records)
    figure, axes = style.canvas(1.2 + 0.3 * tallest, len(records), 1)
    for column, record in enumerate(records):
        _draw_epochs(axes[0, column], record)
        if column and record.variants == records[column - 1].variants:
            axes[0, column].set_yticklabels([])
    names = {"train": "training", "sample": "waiting for sample + slice"}
    style.legend(figure, [Patch(facecolor=_COLORS[key], label=text) for key, text in names.items()], 2, _EPOCHS)
    rounds = span([n for record in records for n in record.times.groupby("variant").size()])
    style.note(
        figure, f"Bars: medians of both parts; dots: whole mini-batches of n = {rounds} rounds, each; no interval."
    )
    return figure


def _draw_epochs(axis: Any, record: GraphRecord) -> None:
    medians = record.times.groupby("variant")[["train", "prepare"]].median().loc[record.variants]
    places = range(len(medians))
    axis.barh(places, medians["train"], 0.7, color=_COLORS["train"], linewidth=0)
    axis.barh(places, medians["prepare"], 0.7, left=medians["train"], color=_COLORS["sample"], linewidth=0)
    for place, name in enumerate(record.variants):
        rounds = record.times[record.times["variant"] == name]["epoch"]
        axis.plot(rounds, [place] * len(rounds), "o", color="#222222", markersize=2.5, linestyle="")
    axis.set_yticks(places, record.variants)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set(title=record.name, xlabel="time per mini-batch (ms)", xlim=(0, None))
