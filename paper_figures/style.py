"""One look for every figure: sizes, fonts, and for each strategy a colour, a marker and a line that never change.

Colours are those of Okabe and Ito (safe for colour-blind readers), without their yellow, which is too pale for lines
on white. No two strategies share the triple colour, marker, line.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.labels import network_label

DOUBLE = 6.9
"""Width of two columns of a paper, in inches; figures are drawn at their final size, so fonts are in true points."""

Dash = tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class Style:
    """How one strategy is drawn everywhere.

    Attributes:
        label: short name for legends and tables.
        color: ``#rrggbb``.
        marker: matplotlib's marker letter.
        dash: offset and on-off lengths, in line widths; an empty tuple of lengths is a solid line.
        filled: whether the marker is filled (hollow: the raw-gradient variants).
        order: place in legends and tables.
    """

    label: str
    color: str
    marker: str
    dash: Dash
    filled: bool
    order: float

    def line(self, **changes: Any) -> dict[str, Any]:
        """Keyword arguments for ``Axes.plot``."""
        face = self.color if self.filled else "white"
        base = {"color": self.color, "marker": self.marker, "linestyle": self.dash, "markerfacecolor": face}
        return base | {"markeredgecolor": self.color} | changes


_SOLID: Dash = (0, ())
_NAMED = {
    "sequential": Style("sequential", "#000000", "_", (0, (4, 2)), True, 0),
    "stash": Style("stash", "#0072b2", "o", _SOLID, True, 1),
    "update-window": Style("update window", "#7f7f7f", "h", (0, (6, 1.5, 1, 1.5)), True, 2),
    "latest": Style("latest", "#d55e00", "s", (0, (5, 1.5)), True, 3),
    "ema-window": Style("EMA window", "#009e73", "^", (0, (3, 1)), True, 5),
    "ema-running": Style("EMA running", "#e69f00", "v", (0, (1, 1)), True, 6),
    "ema-span": Style("EMA span", "#56b4e9", "D", (0, (4, 1, 1, 1)), True, 7),
    "ema-lsq": Style("EMA lsq", "#7a4b1e", "P", (0, (6, 1, 1, 1, 1, 1)), True, 8),
    "pair": Style("pair", "#332288", "X", (0, (8, 2)), True, 9),
}
_RAW_DASH: Dash = (0, (1, 2.5))


def style(strategy: str) -> Style:
    """The style of a strategy: a function of its name alone, so that it is the same in every figure."""
    if strategy in _NAMED:
        return _NAMED[strategy]
    if strategy.endswith("-warm"):  # after a warm-up with exact weights
        base = style(strategy.removesuffix("-warm"))
        return Style(f"{base.label}, warm-up", base.color, base.marker, (0, (2, 3)), False, base.order + 0.3)
    if strategy.endswith("-raw"):
        base = style(strategy.removesuffix("-raw"))
        return Style(f"{base.label}, raw", base.color, base.marker, _RAW_DASH, False, base.order + 0.5)
    if strategy.startswith("pair-"):
        correlation = strategy.removeprefix("pair-")
        return Style(f"pair {correlation}", "#999933", "p", (0, (2, 2)), True, 9 + float(correlation) / 10)
    decay = strategy.removeprefix("ema-")
    try:
        beta = float(decay)
    except ValueError:
        return Style(strategy, "#444444", "d", (0, (1, 1, 3, 1)), True, 20)
    # Okabe and Ito's reddish purple at 0.9; a longer memory is darker.
    light = 0.30 + 0.40 * (1.0 - beta) ** 0.2 / 0.1**0.2
    red, green, blue = colorsys.hls_to_rgb(0.909, min(light, 0.85), 0.48)
    color = "#" + "".join(f"{round(255 * c):02x}" for c in (red, green, blue))
    return Style(f"EMA {decay}", color, "<", (0, (2, 1, 1, 1)), True, 4 + beta / 10)


def ordered(strategies: Iterable[str]) -> list[str]:
    """Strategies without repetition, in the order of legends and tables."""
    return sorted(set(strategies), key=lambda s: (style(s).order, s))


_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "layerpipe2",
    "svg.fonttype": "path",
    "path.simplify": True,
}


def context() -> AbstractContextManager[None]:
    """The settings under which figures are drawn and saved."""
    return mpl.rc_context(sns.axes_style("ticks") | sns.plotting_context("paper") | _RC)


def canvas(height: float, columns: int = 1, rows: int = 1, **shared: Any) -> tuple[Figure, Any]:
    """A figure as wide as two columns and its axes as a 2-D array; ``shared`` goes to ``subplots``."""
    figure = Figure(figsize=(DOUBLE, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        sns.despine(ax=axis)
    return figure, axes


def panels(networks: list[str], height: float, label: str) -> tuple[Figure, dict[str, Any]]:
    """One titled panel per network, at most three in a row, on a common y axis with this label."""
    columns = len(networks) if len(networks) <= 3 else 2
    rows = -(-len(networks) // columns)
    figure, axes = canvas(0.8 + (height - 0.8) * rows, columns, rows, sharey=True)
    for spare in axes.flat[len(networks) :]:
        spare.remove()
    figure.supylabel(label, fontsize=8)
    named = dict(zip(networks, axes.flat, strict=False))
    for network, axis in named.items():
        axis.set_title(network_label(network))
    return figure, named


def legend(figure: Figure, handles: list[Line2D], columns: int = 4) -> None:
    """A legend for the whole figure, above the panels."""
    figure.legend(handles=handles, loc="outside upper center", ncols=min(columns, len(handles)))


def note(figure: Figure, text: str) -> None:
    """What the reader must know to read the figure (what bands are, n), below the panels."""
    figure.supxlabel(text, fontsize=7, color="#444444")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` (200 dots per inch) and ``stem.svg``, without dates or versions: same figure, same bytes."""
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    with context():
        figure.savefig(paths[0], dpi=200, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths
