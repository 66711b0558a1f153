"""The figure of speed."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures import style, variant_style
from paper_figures.claims.pipelines.speed import OVER_PLAIN
from paper_figures.records.pipelines import PipelineRecords
from paper_figures.text import dataset_label

_ROW = 0.17  # inches
_PREDICTED: dict[str, Any] = {"marker": "D", "markersize": 5, "markerfacecolor": "white"}
_PREDICTED |= {"markeredgecolor": "#d55e00", "markeredgewidth": 1.1, "linestyle": ""}
_AIM: dict[str, Any] = {"color": "#444444", "linewidth": 0.8, "linestyle": (0, (4, 2))}


def speed(records: PipelineRecords) -> Figure:
    """Speed over plain training per variant: bars are medians over rounds, dots rounds, diamonds predictions."""
    bench = records.main
    predicted = bench.variants.set_index("variant")["predicted"].drop("plain").dropna()
    dots: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 2.6, "color": "#222222"}
    with style.context():
        figure, axis, places = _chart(bench.variants["variant"])
        for name, place in places.items():
            ratios = bench.ratios(name)
            _bar(axis, place, ratios.median(), name)
            line = [ratios.median()] * 2, [place - 0.36, place + 0.36]
            axis.plot(*line, color=variant_style.color(name), linewidth=1.6)
            axis.plot(ratios, [place] * len(ratios), zorder=4, **dots)
            if name in predicted:
                axis.plot([predicted[name]], [place], zorder=3, **_PREDICTED)
        axis.axvline(1, color="#444444", linewidth=0.8)
        axis.axvline(OVER_PLAIN, **_AIM)
        axis.set(xlabel="speed over plain training in one process", xlim=(0, None))
        handles = [Patch(facecolor="#8c8c8c", alpha=0.6, label="median"), style.handle("one round", **dots)]
        handles += [style.handle("predicted from layer times", **_PREDICTED)]
        style.legend(figure, [*handles, style.handle(f"aim: {OVER_PLAIN:g}×", **_AIM)])
        o, dataset = bench.options, dataset_label(bench.options["dataset"])
        setting = f"{bench.label} on {dataset}, mini-batches of {o['batch_size']}; {o['processes']} processes"
        style.note(figure, f"{setting} of one thread; n={o['rounds']} rounds of {o['batches']} mini-batches.")
        return figure


def _bar(axis: Any, place: float, length: float, name: str) -> None:
    axis.barh(place, length, height=0.72, color=variant_style.color(name), alpha=0.45, linewidth=0)


def _chart(variants: Iterable[str]) -> tuple[Figure, Any, dict[str, float]]:
    """A figure, its axis, and a row for every variant, under a heading for every kind."""
    names = variant_style.ordered(variants)
    figure, axes = style.canvas(1.0 + _ROW * (len(names) + 4))
    axis, row, places = axes[0, 0], 0.0, dict[str, float]()
    looks = {"fontsize": 7, "fontweight": "bold", "va": "center", "zorder": 5}
    for kind, members in groupby(names, variant_style.group):
        axis.text(0.005, row, kind, transform=axis.get_yaxis_transform(), **looks)
        places |= {name: row + i for i, name in enumerate(members, start=1)}
        row = max(places.values()) + 1
    axis.set_yticks(list(places.values()), [variant_style.label(name) for name in places])
    axis.set_ylim(row - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    return figure, axis, places
