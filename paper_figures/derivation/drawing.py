"""One signal-flow graph as a block diagram, in inches: operations side by side, F, U, G, A below each other.

A box ``4D`` is four registers. Edges that carry the same signal share a wire, and with it the boxes that they have in
common: an update's weight register stands once, before the wire forks to F, A and back to U, and a layer's input is
tapped behind the register of the stage boundary. So the boxes of a drawing add up to the registers of the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.patches import Circle, FancyBboxPatch

from layerpipe2.theory.derivation import Step
from layerpipe2.theory.graph import Edge, SignalFlowGraph
from paper_figures import style

INK, MOVED, FADED, STAGE = "#222222", style.OTHERS[3], "#9a9a9a", "#f1f1ee"


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


ROWS = {"F": 1.40, "U": 0.90, "G": 0.50, "A": 0.14}
"""Height of each kind of node above the bottom of the drawing."""


OLD, TAPPED = 0.70, 1.07
"""Heights of the boxes of old weights, kept activations and delayed gradients, and of those of layer inputs."""


HEIGHT, MARGIN = 1.66, 0.52


OPERAND, KEPT, STATE, HISTORY, ERROR = -0.325, -0.225, -0.15, 0.19, 0.285
"""Where the wires of a layer run, right of its middle."""


@dataclass(frozen=True)
class Drawing:
    """A step on an axis; positions in inches.

    Attributes:
        axis: with equal scales, as large as the drawing.
        step: graph and moves to draw.
        before: register counts of the step before, to mark those that differ; None marks nothing.
        pitch: distance of two operations.
    """

    axis: Any
    step: Step
    before: Mapping[Edge, int] | None
    pitch: float

    @property
    def pen(self) -> Pen:
        """Draws on the axis."""
        return Pen(self.axis)

    @property
    def graph(self) -> SignalFlowGraph:
        """The step's graph."""
        return self.step.graph

    @property
    def names(self) -> list[str]:
        """Operations, each of which reads the one before."""
        return [data["operation"] for data in self.graph.nodes.values() if data["kind"] == "forward"]

    @property
    def width(self) -> float:
        """Of the drawing."""
        return 2 * MARGIN + self.pitch * len(self.names)

    def x(self, layer: float) -> float:
        """Middle of a layer's column; ``layer`` may be a fraction."""
        return MARGIN + self.pitch * (layer + 0.5)

    def draw(self) -> None:
        """Stages, cutsets, wires, registers and nodes."""
        self.axis.set(xlim=(0, self.width), ylim=(-0.1, HEIGHT), aspect="equal")
        self.axis.axis("off")
        self._stages()
        self._ends()
        for layer, name in enumerate(self.names):
            self._travelling(layer)
            self._kept(layer)
            if name in self.graph.operations:
                self._operand(layer)
                self._weights(layer)
            for letter, row in ROWS.items():
                if f"{letter}{name}" in self.graph.nodes:
                    self.pen.node(letter, self.label(name), (self.x(layer), row))
        self._moves()

    def label(self, name: str) -> str:
        """What stands beside the letter of an operation's nodes."""
        return name

    def _stages(self) -> None:
        for stage in range(self.graph.num_stages):
            mine = [layer for layer, name in enumerate(self.names) if self.graph.stage(f"F{name}") == stage]
            left, right = self.x(mine[0] - 0.44), self.x(mine[-1] + 0.44)
            self.pen.frame(left, -0.06, right, HEIGHT - 0.04, facecolor=STAGE, edgecolor="none", zorder=0)

    def _ends(self) -> None:
        """Inputs on the left and, for the targets, on the right; loss; the two results."""
        last = len(self.names) - 1
        loss = (self.x(last + 0.5) + 0.14, (ROWS["F"] + ROWS["A"]) / 2)
        self.pen.text((0.10, ROWS["F"]), "x")
        self.pen.text((0.12, ROWS["A"]), "out")
        self.pen.node("loss", "", loss)
        right = self.width - 0.14
        for text, row, inward, edge in (
            ("y", ROWS["F"], True, ("y", "loss", "target")),
            ("out", ROWS["A"], False, ("loss", "out", "output")),
        ):
            side = -1 if inward else 1  # from the text to the row of the loss
            turn = loss[1] - 0.05 * side
            points = [(right, row + 0.09 * side), (right, turn), (loss[0] + RADIUS, turn)]
            self.pen.wire(points if inward else points[::-1])
            self.pen.text((right, row), text)
            self._box((right, row + 0.26 * side), edge)
        self.pen.wire([(self.x(last) + RADIUS, ROWS["F"]), (loss[0], ROWS["F"]), (loss[0], loss[1] + RADIUS)])
        self.pen.wire([(loss[0], loss[1] - RADIUS), (loss[0], ROWS["A"]), (self.x(last) + RADIUS, ROWS["A"])])

    def _travelling(self, layer: int) -> None:
        """Activation into an operation, and gradient out of it."""
        left = self.x(layer - 1) + RADIUS if layer else 0.18
        low = left if layer else 0.24
        here, boundary = self.x(layer), (self.x(layer - 0.5) if layer else 0.40)
        name = self.names[layer]
        before = f"A{self.names[layer - 1]}" if layer else "out"
        self.pen.wire([(left, ROWS["F"]), (here - RADIUS, ROWS["F"])])
        self.pen.wire([(here - RADIUS, ROWS["A"]), (low, ROWS["A"])])
        self._box((boundary, ROWS["F"]), self._activation(layer))
        self._box((boundary, ROWS["A"]), (f"A{name}", before, "gradient" if layer else "output"))

    def _activation(self, layer: int) -> Edge:
        return f"F{self.names[layer - 1]}" if layer else "x", f"F{self.names[layer]}", "activation"

    def _operand(self, layer: int) -> None:
        """The two factors of the weight gradient, tapped from the activation and from the gradient."""
        here, tap, activation = self.x(layer), self.x(layer) + OPERAND, self._activation(layer)
        self.pen.wire([(tap, ROWS["F"]), (tap, ROWS["G"]), (here - RADIUS, ROWS["G"])], dot=True)
        self._box((tap, TAPPED), (activation[0], f"G{self.names[layer]}", "operand"), activation)
        tap = here + ERROR
        self.pen.wire([(tap, ROWS["A"]), (tap, ROWS["G"]), (here + RADIUS, ROWS["G"])], dot=True)

    def _weights(self, layer: int) -> None:
        """The update's loop with the weight register, its wires to F and A, and the gradient that comes in."""
        here, fork, side = self.x(layer), ROWS["U"] + 0.335, self.x(layer) + HISTORY
        name, loop, slope = self.names[layer], self.x(layer) + STATE, 0.075
        weight: Edge = (f"U{name}", f"F{name}", "weight")
        self.pen.wire([(here, ROWS["U"] + RADIUS), (here, ROWS["F"] - RADIUS)])
        self.pen.wire([(here, fork), (loop, fork), (loop, ROWS["U"]), (here - RADIUS, ROWS["U"])], dot=True)
        to_gradient = [(side, ROWS["A"] + 0.2), (here + slope, ROWS["A"] + slope)]
        self.pen.wire([(here, fork), (side, fork), *to_gradient], dot=True)
        self.pen.wire([(here, ROWS["G"] + RADIUS), (here, ROWS["U"] - RADIUS)])
        self._box((here, ROWS["U"] + 0.205), weight)
        self._box((side, OLD), (f"U{name}", f"A{name}", "history"), weight)
        self._box((here, OLD), (f"G{name}", f"U{name}", "step"))
        self._box((loop, ROWS["U"] + 0.205), (f"U{name}", f"U{name}", "state"), weight)

    def _kept(self, layer: int) -> None:
        """What the forward task leaves for the backward task of the same layer."""
        here, side, slope = self.x(layer), self.x(layer) + KEPT, 0.075
        start, end = (here - slope, ROWS["F"] - slope), (here - slope, ROWS["A"] + slope)
        self.pen.wire([start, (side, ROWS["F"] - 0.2), (side, ROWS["A"] + 0.2), end], color="#777777")
        self._box((side, OLD), (f"F{self.names[layer]}", f"A{self.names[layer]}", "kept"))

    def _moves(self) -> None:
        """Dashed frames around nodes that were retimed, with their lag in registers."""
        lags = self.step.lags
        frames = [("FU", "F", HEIGHT - 0.10), ("GA", "A", -0.015)]
        if lags.get(f"U{self.names[0]}", 0) > 0:  # the step of a slowed clock: updates move with the gradients
            frames = [("UGA", "A", -0.015)]
        for letters, shown, corner in frames:
            mine = [layer for layer, name in enumerate(self.names) if lags.get(f"{shown}{name}")]
            if mine:
                rows = [ROWS[letter] for letter in letters]
                left, right = self.x(mine[0]) - 0.17, self.x(mine[-1]) + 0.165
                self.pen.dashed_frame(left, min(rows) - 0.13, right, max(rows) + 0.13)
                lag = lags[f"{shown}{self.names[mine[0]]}"]
                self.pen.text((right + 0.11, corner), f"{lag:+d}".replace("-", "−"), color=MOVED, weight="bold")

    def _box(self, at: Point, edge: Edge, shared: Edge | None = None) -> None:
        """The registers of an edge, without those in which it shares the wire of another."""

        def count(registers: Mapping[Edge, int]) -> int:
            return registers[edge] - (registers[shared] if shared else 0)

        now = count(self.graph.registers)
        self.pen.box(at, now, self.before is not None and now != count(self.before))
