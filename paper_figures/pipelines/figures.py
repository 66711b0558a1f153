"""Figures of speed and time to accuracy."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures import labels, style
from paper_figures.pipelines import variants
from paper_figures.pipelines.answers import percent
from paper_figures.pipelines.records import PipelineRecords, Study
from paper_figures.pipelines.targets import OVER_PLAIN

_ROW = 0.17  # inches


def speed(records: PipelineRecords) -> Figure:
    """Speed over plain training per variant: bars are medians over rounds, dots rounds, diamonds predictions."""
    study = records.main
    names = variants.ordered(study.variants["variant"])
    with style.context():
        figure, axes = style.canvas(1.0 + _ROW * (len(names) + 4))
        axis = axes[0, 0]
        places = _places(axis, names)
        for name in names:
            _draw_speed(axis, study, name, places[name])
        axis.axvline(1, color="#444444", linewidth=0.8)
        axis.axvline(OVER_PLAIN, color="#444444", linewidth=0.8, linestyle=(0, (4, 2)))
        axis.set(xlabel="speed over plain training in one process", xlim=(0, None))
        figure.legend(handles=_speed_handles(), loc="outside upper center", ncols=4)
        style.note(figure, _setting(study))
        return figure


def _places(axis: Any, names: list[str]) -> dict[str, float]:
    """A row for every variant, under a heading for every kind."""
    ticks: list[tuple[float, str]] = []
    places: dict[str, float] = {}
    row, kind = 0.0, ""
    for name in names:
        if variants.group(name) != kind:
            kind = variants.group(name)
            axis.text(0.005, row, kind, transform=axis.get_yaxis_transform(), fontsize=7, fontweight="bold",
                      va="center", zorder=5)  # fmt: skip
            row += 1
        places[name] = row
        ticks.append((row, variants.label(name)))
        row += 1
    axis.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    axis.set_ylim(row - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    return places


def _draw_speed(axis: Any, study: Study, name: str, place: float) -> None:
    ratios = study.ratios(name)
    axis.barh(place, ratios.median(), height=0.72, color=variants.color(name), alpha=0.45, linewidth=0)
    axis.plot([ratios.median()] * 2, [place - 0.36, place + 0.36], color=variants.color(name), linewidth=1.6)
    axis.plot(ratios, [place] * len(ratios), linestyle="", marker="o", markersize=2.6, color="#222222", zorder=4)
    predicted = study.variants.set_index("variant")["predicted"][name]
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
    dashed = Line2D([], [], color="#444444", linestyle=(0, (4, 2)), linewidth=0.8, label=f"aim: {OVER_PLAIN:g}×")
    return [
        Patch(facecolor="#8c8c8c", alpha=0.6, label="median"),
        Line2D([], [], linestyle="", marker="o", markersize=2.6, color="#222222", label="one round"),
        Line2D([], [], linestyle="", label="predicted from layer times", **_PREDICTED),
        dashed,
    ]


def _setting(study: Study) -> str:
    o, dataset = study.options, labels.dataset_label(study.options["dataset"])
    return (
        f"{network_words(study.network)} on {dataset}, mini-batches of {o['batch_size']}; {o['processes']} processes "
        f"of one thread; n={o['rounds']} rounds of {o['batches']} mini-batches."
    )


def network_words(network: str) -> str:
    """A network's name for readers; the benchmark's own by what it is."""
    return "Eight equal convolutions" if network == "even" else labels.network_label(network)


def time_to_target(records: PipelineRecords) -> Figure:
    """Seconds of training until the target accuracy: bars are medians, dots seeds; a missed target is written."""
    study = records.main
    names = variants.ordered(study.targets["variant"])
    with style.context():
        figure, axes = style.canvas(1.0 + _ROW * (len(names) + 3))
        axis = axes[0, 0]
        places = _places(axis, names)
        for name in names:
            _draw_target(axis, study.targets[study.targets["variant"] == name], name, places[name])
        axis.set(xlabel=f"training time (s) to {percent(study.options['target'])} validation accuracy")
        axis.set_xlim(0, 1.22 * max(study.targets["seconds"].max(), 1e-3) if study.targets["seconds"].any() else 1)
        seeds = study.targets["seed"].nunique()
        style.note(figure, f"Bars and epochs: medians; dots: n={seeds} seeds. Evaluation is not timed.")
        return figure


def _draw_target(axis: Any, runs: pd.DataFrame, name: str, place: float) -> None:
    reached = runs.dropna(subset="seconds")
    missed = len(runs) - len(reached)
    text = f"missed by {missed} of {len(runs)} seeds" if missed else f"{reached['epochs'].median():g} epochs"
    if missed:
        axis.text(reached["seconds"].max() if len(reached) else 0, place, f"  {text}", va="center", fontsize=7)
    else:
        axis.barh(place, reached["seconds"].median(), height=0.72, color=variants.color(name), alpha=0.45, linewidth=0)
        axis.text(reached["seconds"].max(), place, f"  {text}", va="center", fontsize=7)
    axis.plot(reached["seconds"], [place] * len(reached), linestyle="", marker="o", markersize=3, color="#222222")
