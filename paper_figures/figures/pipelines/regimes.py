"""The regime map as a figure: which choice is fastest, and from where on a link holds up which of them."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures import style, variant_style
from paper_figures.records.regimes import ONE_HOST, Regimes

_DDP: dict[str, Any] = {"facecolor": variant_style.color("ddp"), "linewidth": 0, "alpha": 0.15}
_PIPELINE: dict[str, Any] = {"facecolor": "none", "edgecolor": "#bbbbbb", "linewidth": 0, "hatch": "////"}
_MARK: dict[str, Any] = {"markersize": 6.5, "markeredgewidth": 1.2, "linestyle": ""}
_HOLLOW = _MARK | {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "#444444"}


def regimes(found: Regimes) -> Figure:
    """A panel per place: traffic of a pipeline to the right, that of data parallel training up, a mark per point.

    Shaded is where the link alone makes a choice slower than one process of step time T: data parallel training, whose
    half of the work takes T / 2, from ``P / bandwidth = T / 2`` on; a pipeline from ``A / bandwidth = T`` on, for bytes
    of weights P and of activations at the cut A.
    """
    winners = found.winners()
    x, y = winners["cut_bytes"] / winners["step"] / 1e6, winners["parameter_bytes"] / winners["step"] / 1e6
    limits = [(values.min() / 2, values.max() * 2) for values in (x, y)]
    columns = min(len(found.places), 2)
    with style.context():
        rows = -(-len(found.places) // columns)
        figure, axes = style.canvas(
            0.9 + 1.75 * rows, columns, rows, len(found.places), width=style.SINGLE, sharex=True, sharey=True
        )
        for place, axis in zip(found.places, axes.flat, strict=False):
            axis.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
            axis.minorticks_off()
            axis.set_title(place if place == ONE_HOST else f"two hosts, {place}", pad=3)
            _shade(axis, found.bandwidth(place) / 1e6, found.neighbours_bandwidth(place) / 1e6, limits)
            _draw(axis, winners.assign(x=x, y=y)[winners["place"] == place])
        figure.supxlabel("activations at the cut (MB per s of one process)", fontsize=8)
        figure.supylabel("weights (MB per s of one process)", fontsize=8)
        names = variant_style.ordered(winners["fastest"])
        handles: list[Any] = [style.handle(variant_style.label(name), **_look(name, decided=True)) for name in names]
        handles += [style.handle(f"hollow: not in all {found.rounds_of_each} rounds", **_HOLLOW)]
        handles += [
            Patch(label="link too slow for DDP", **_DDP),
            Patch(label="link too slow for a pipeline", **_PIPELINE),
        ]
        style.legend(figure, handles, columns=2)
        return figure


def _shade(axis: Any, bandwidth: float, neighbours: float, limits: list[tuple[float, float]]) -> None:
    """From these MB/s on the link makes either slower than one process."""
    (_, right), (_, top) = limits
    axis.axhspan(min(bandwidth / 2, top), top, zorder=0, **_DDP)
    axis.axvspan(min(neighbours, right), right, zorder=0, **_PIPELINE)


def _draw(axis: Any, points: pd.DataFrame) -> None:
    for row in points.itertuples():
        axis.plot([row.x], [row.y], zorder=3, clip_on=False, **_look(str(row.fastest), decided=bool(row.decided)))


def _look(name: str, *, decided: bool) -> dict[str, Any]:
    """Filled, or hollow where another kind was as fast in some round."""
    color = variant_style.color(name)
    face = {"markerfacecolor": color if decided else "white", "markeredgecolor": color}
    return _MARK | face | {"marker": variant_style.marker(name)}
