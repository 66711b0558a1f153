"""Strokes of the block diagrams: nodes, wires, register boxes, frames; positions in inches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.patches import Circle, FancyBboxPatch

INK, MOVED, FADED, STAGE = "#222222", "#d55e00", "#9a9a9a", "#f1f1ee"
FILLS = {"F": "#cfe5f5", "A": "#f6dcc4", "G": "#f3e9b5", "U": "#c9e8da"}
FONT, RADIUS = 7, 0.105

Point = tuple[float, float]


@dataclass(frozen=True)
class Pen:
    """Draws on ``axis``, whose units are inches."""

    axis: Any

    def node(self, letter: str, layer: str, at: Point) -> None:
        """A circle with a letter and the layer's number; without a number it is the loss."""
        fill = FILLS.get(letter, "#e4e4e4")
        self.axis.add_patch(Circle(at, RADIUS, facecolor=fill, edgecolor=INK, linewidth=0.7, zorder=4))
        text = f"${letter}_{{{layer}}}$" if layer else "$\\ell$"
        self.axis.text(*at, text, ha="center", va="center_baseline", fontsize=FONT + 0.5, zorder=5)

    def box(self, at: Point, count: int, moved: bool) -> None:
        """``count`` registers; a box that has just been emptied leaves a pale outline."""
        if not count and not moved:
            return
        label = "D" if count == 1 else f"{count}D" if count else ""
        half = 0.035 + 0.03 * max(1, len(label))
        color = (MOVED if moved else INK) if count else FADED
        face, line = MOVED if moved and count else "white", "-" if count else (0, (1.5, 1))
        looks = {"facecolor": face, "edgecolor": color, "linewidth": 0.7, "linestyle": line, "zorder": 7}
        self.frame(at[0] - half, at[1] - 0.065, at[0] + half, at[1] + 0.065, rounding=0.01, **looks)
        ink = "white" if moved else INK
        self.axis.text(*at, label, ha="center", va="center_baseline", fontsize=FONT, color=ink, zorder=8)

    def wire(self, points: Sequence[Point], color: str = INK, dot: bool = False) -> None:
        """A line through the points, an arrow at its end and, if it is a tap, a dot at its start."""
        xs, ys = zip(*points, strict=True)
        self.axis.plot(xs, ys, color=color, linewidth=0.7, zorder=2, solid_joinstyle="miter", marker="")
        arrow = {"arrowstyle": "-|>,head_width=0.12,head_length=0.24", "color": color, "linewidth": 0.7}
        arrow |= {"shrinkA": 0, "shrinkB": 0}
        self.axis.annotate("", points[-1], points[-2], arrowprops=arrow, zorder=3)
        if dot:
            self.axis.plot(*points[0], marker="o", markersize=1.8, color=color, zorder=3)

    def frame(self, left: float, low: float, right: float, high: float, rounding: float = 0.05, **looks: Any) -> None:
        """A rounded rectangle."""
        shape = f"round,pad=0,rounding_size={rounding}"
        self.axis.add_patch(FancyBboxPatch((left, low), right - left, high - low, boxstyle=shape, **looks))

    def dashed_frame(self, left: float, low: float, right: float, high: float) -> None:
        """A rounded rectangle around nodes that were moved."""
        line: dict[str, Any] = {"edgecolor": MOVED, "linestyle": (0, (3, 1.5)), "linewidth": 1.0}
        self.frame(left, low, right, high, facecolor="none", zorder=6, **line)

    def text(self, at: Point, text: str, **looks: Any) -> None:
        """A word, centred."""
        self.axis.text(*at, text, ha="center", va="center", fontsize=FONT, zorder=8, **looks)
