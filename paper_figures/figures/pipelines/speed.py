"""Figures of speed and time to accuracy."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures import style, variant_style
from paper_figures.claims.pipelines.targets import OVER_PLAIN
from paper_figures.records.pipelines import Benchmark, PipelineRecords
from paper_figures.text import dataset_label, percent

_ROW = 0.17  # inches


def speed(records: PipelineRecords) -> Figure:
    """Speed over plain training per variant: bars are medians over rounds, dots rounds, diamonds predictions."""
    bench = records.main
    names = variant_style.ordered(bench.variants["variant"])
    with style.context():
        figure, axes = style.canvas(1.0 + _ROW * (len(names) + 4))
        axis = axes[0, 0]
        places = _places(axis, names)
        for name in names:
            _draw_speed(axis, bench, name, places[name])
        axis.axvline(1, color="#444444", linewidth=0.8)
        axis.axvline(OVER_PLAIN, color="#444444", linewidth=0.8, linestyle=(0, (4, 2)))
        axis.set(xlabel="speed over plain training in one process", xlim=(0, None))
        figure.legend(handles=_speed_handles(), loc="outside upper center", ncols=4)
        style.note(figure, _setting(bench))
        return figure


def _places(axis: Any, names: list[str]) -> dict[str, float]:
    """A row for every variant, under a heading for every kind."""
    ticks: list[tuple[float, str]] = []
    places: dict[str, float] = {}
    row, kind = 0.0, ""
    for name in names:
        if variant_style.group(name) != kind:
            kind = variant_style.group(name)
            looks = {"fontsize": 7, "fontweight": "bold", "va": "center", "zorder": 5}
            axis.text(0.005, row, kind, transform=axis.get_yaxis_transform(), **looks)
            row += 1
        places[name] = row
        ticks.append((row, variant_style.label(name)))
        row += 1
    axis.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    axis.set_ylim(row - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    return places


def _draw_speed(axis: Any, bench: Benchmark, name: str, place: float) -> None:
    ratios = bench.ratios(name)
    axis.barh(place, ratios.median(), height=0.72, color=variant_style.color(name), alpha=0.45, linewidth=0)
    axis.plot([ratios.median()] * 2, [place - 0.36, place + 0.36], color=variant_style.color(name), linewidth=1.6)
    axis.plot(ratios, [place] * len(ratios), linestyle="", marker="o", markersize=2.6, color="#222222", zorder=4)
    predicted = bench.variants.set_index("variant")["predicted"][name]
    if name != "plain" and pd.notna(predicted):
        axis.plot([predicted], [place], linestyle="", zorder=3, **_PREDICTED)


_PREDICTED: dict[str, Any] = {
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": "#d55e00",
    "markeredgewidth": 1.1,
}


def _speed_handles() -> list[Any]:
    return [
        Patch(facecolor="#8c8c8c", alpha=0.6, label="median"),
        style.handle("one round", linestyle="", marker="o", markersize=2.6, color="#222222"),
        style.handle("predicted from layer times", linestyle="", **_PREDICTED),
        style.handle(f"aim: {OVER_PLAIN:g}×", color="#444444", linestyle=(0, (4, 2)), linewidth=0.8),
    ]


def _setting(bench: Benchmark) -> str:
    o, dataset = bench.options, dataset_label(bench.options["dataset"])
    return (
        f"{bench.label} on {dataset}, mini-batches of {o['batch_size']}; {o['processes']} processes "
        f"of one thread; n={o['rounds']} rounds of {o['batches']} mini-batches."
    )


def time_to_target(records: PipelineRecords) -> Figure:
    """Seconds of training until the target accuracy: bars are medians, dots seeds; a missed target is written."""
    bench = records.main
    names = variant_style.ordered(bench.targets["variant"])
    with style.context():
        figure, axes = style.canvas(1.0 + _ROW * (len(names) + 3))
        axis = axes[0, 0]
        places = _places(axis, names)
        for name in names:
            _draw_target(axis, bench.targets[bench.targets["variant"] == name], name, places[name])
        axis.set(xlabel=f"training time (s) to {percent(bench.options['target'])} validation accuracy")
        axis.set_xlim(0, 1.22 * max(bench.targets["seconds"].max(), 1e-3) if bench.targets["seconds"].any() else 1)
        seeds = bench.targets["seed"].nunique()
        style.note(figure, f"Bars and epochs: medians; dots: n={seeds} seeds. Evaluation is not timed.")
        return figure


def _draw_target(axis: Any, runs: pd.DataFrame, name: str, place: float) -> None:
    reached = runs.dropna(subset="seconds")
    missed = len(runs) - len(reached)
    text = f"missed by {missed} of {len(runs)} seeds" if missed else f"{reached['epochs'].median():g} epochs"
    if missed:
        axis.text(reached["seconds"].max() if len(reached) else 0, place, f"  {text}", va="center", fontsize=7)
    else:
        axis.barh(
            place, reached["seconds"].median(), height=0.72, color=variant_style.color(name), alpha=0.45, linewidth=0
        )
        axis.text(reached["seconds"].max(), place, f"  {text}", va="center", fontsize=7)
    axis.plot(reached["seconds"], [place] * len(reached), linestyle="", marker="o", markersize=3, color="#222222")
