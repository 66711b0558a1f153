"""One look for every figure: sizes and fonts, and for each strategy its colour, marker and line."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import find_strategy
from paper_figures.text import network_label

SINGLE, DOUBLE = 3.4, 6.9
"""Widths of one and two columns of a paper, in inches; figures are drawn at their final size: fonts in true points."""

SOLID = (0, ())

TASKS = {
    "forward": "#9ad0f0",
    "forward again": "#5a9bd4",
    "activation gradient": "#f0c060",
    "half of it": "#f8e2b0",
    "weight gradient": "#e89a6a",
    "whole backward pass": "#d9b3cc",
}
"""Colours of what a processor computes, in schedules and in time stamps."""
WAITING = "#e4e4e4"

OTHERS = ("#2f4858", "#2ab7b0", "#a4c639", "#8e63ce", "#b0b0b0", "#6b705c")
"""Colours of what is no strategy, none of which is a strategy's: schedules, networks, momenta."""

Look = dict[str, Any]
"""Keyword arguments for ``Axes.plot``."""


def line(strategy: str, **changes: Any) -> Look:
    """How a strategy is drawn everywhere; hollow markers: over lr x gradient, or after a warm-up."""
    looks = look(strategy)
    face = looks.colour if looks.filled else "white"
    drawn = {"color": looks.colour, "marker": looks.marker, "linestyle": looks.dash, "markerfacecolor": face}
    return drawn | {"markeredgecolor": looks.colour} | changes


def labels(strategies: Iterable[str]) -> list[str]:
    """Names for readers, in the order of legends and tables."""
    return [find_strategy(name).label for name in ordered(strategies)]


_COORDINATES = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')
_LONG = re.compile(r"-?\d+\.\d{3,}")

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


def drawn(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a function draw under these settings."""

    @wraps(draw)
    def under_them(*arguments: Any, **named: Any) -> Figure:
        with context():
            return draw(*arguments, **named)

    return under_them


def canvas(
    height: float, columns: int = 1, rows: int = 1, used: int | None = None, *, width: float = DOUBLE, **shared: Any
) -> tuple[Figure, Any]:
    """A figure, by default as wide as two columns, and its axes as a 2-D array, of which the first ``used`` are kept.

    Everything else goes to ``subplots``.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        sns.despine(ax=axis)
    for spare in axes.flat[used:] if used is not None else ():
        spare.remove()
    return figure, axes


def panels(
    networks: list[str], height: float, xlabel: str, ylabel: str, *, sharey: bool = True
) -> tuple[Figure, dict[str, Any]]:
    """One titled panel per network, at most three in a row, by default on a common y axis."""
    columns = len(networks) if len(networks) <= 3 else 2
    rows = -(-len(networks) // columns)
    figure, axes = canvas(0.8 + (height - 0.8) * rows, columns, rows, len(networks), sharey=sharey)
    if not sharey:
        figure.set_layout_engine("constrained", wspace=0.03)  # room for the labels between the panels
    figure.supylabel(ylabel, fontsize=8)
    named = dict(zip(networks, axes.flat, strict=False))
    for network, axis in named.items():
        axis.set(title=network_label(network), xlabel=xlabel)
    return figure, named


def integer_ticks(axis: Any) -> None:
    """Ticks of the x axis at whole numbers."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def log_ticks(axis: Any, subs: Sequence[float], along: str = "y") -> None:
    """Make an axis logarithmic, with ticks at these multiples of powers of ten, written in full."""
    axis.set(**{f"{along}scale": "log"})
    ruler = getattr(axis, f"{along}axis")
    ruler.set_major_locator(LogLocator(subs=subs))
    ruler.set_major_formatter(lambda value, _: f"{value:g}")
    ruler.set_minor_locator(NullLocator())


def task(axis: Any, row: float, left: float, length: float, text: str, **looks: Any) -> None:
    """Draw a task on a time axis that begins at 0, and its text where there is room for it."""
    axis.add_patch(Rectangle((left, row - 0.42), length, 0.84, edgecolor="white", **looks))
    width = axis.get_xlim()[1]
    seen = min(left + length, width) - max(left, 0)
    if text and seen > 0.013 * len(text) * width:
        axis.text(max(left, 0) + seen / 2, row, text, ha="center", va="center_baseline", fontsize=7)


def handle(label: str, **look: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def handles(strategies: Iterable[str], **changes: Any) -> list[Line2D]:
    """An entry for every strategy, that of sequential training without a marker."""
    looks = {name: {"marker": ""} if name == SEQUENTIAL else changes for name in ordered(strategies)}
    return [handle(find_strategy(name).label, **line(name, **look)) for name, look in looks.items()]


_TITLE: dict[str, Any] = {"size": 8.5, "weight": "bold"}


def title(figure: Figure, text: str) -> None:
    """What a figure without a legend shows, in one line above it."""
    figure.suptitle(text, fontproperties=_TITLE)


def legend(figure: Figure, handles: Sequence[Artist], columns: int = 4, title: str | None = None) -> None:
    """A legend for the whole figure, above the panels; the title says in one line what the figure shows."""
    place = {"loc": "outside upper center", "ncols": min(columns, len(handles))}
    figure.legend(handles=handles, title=title, title_fontproperties=_TITLE, **place)


def task_legend(figure: Figure, tasks: Mapping[str, str], title: str) -> None:
    """A legend of :data:`TASKS`, with their texts, and of waiting."""
    colours = {text: TASKS[what] for what, text in tasks.items()} | {"waiting": WAITING}
    patches = [Patch(facecolor=colour, edgecolor="#555555", label=text) for text, colour in colours.items()]
    legend(figure, patches, len(patches) if len(patches) < 6 else 3, title)


def note(figure: Figure, text: str) -> None:
    """What the reader must know to read the figure (what bands are, n), below the panels."""
    figure.supxlabel(text, fontsize=7, color="#444444")


def save(figure: Figure, stem: Path) -> Path:
    """Write ``stem.svg``, without dates, versions and indentation: same figure, same bytes.

    Coordinates are rounded to a hundredth of a point, which nobody sees.
    """
    path = stem.with_name(f"{stem.name}.svg")
    with context(), StringIO() as drawn:
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        text = _COORDINATES.sub(lambda found: _LONG.sub(_short, found[0]), drawn.getvalue())
    path.write_text(re.sub(r"(?m)^ +", "", text), encoding="utf-8")
    return path


def _short(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 2):g}"
