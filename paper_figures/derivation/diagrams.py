"""The derivation of the delays, step by step, as block diagrams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.theory.derivation import Derivation, Step, derive
from layerpipe2.theory.network import from_units
from paper_figures import style
from paper_figures.derivation.drawing import ERROR, FONT, HEIGHT, INK, MARGIN, ROWS, Drawing
from paper_figures.page import report

DRAWN = {
    "per_layer": partial(derive, 3),
    "grouped": partial(derive, 5, group_size=2),
    "residual": partial(derive, from_units(["layer", "block", "layer"])),
    "pipedream": partial(derive, 3, convention="pipedream"),
}
"""Drawing -> what makes its derivation."""


@report.table("derivation", shown=None)
def registers() -> pd.DataFrame:
    """The registers on every edge after every step, drawn or not; a node is a letter of the key with its operation."""
    rows = [
        (drawing, step.number, *edge, step.graph.registers[edge])
        for drawing, make in DRAWN.items()
        for step in make().steps
        for edge in step.graph.edges
    ]
    return pd.DataFrame(rows, columns=["drawing", "step", "from", "to", "signal", "registers"])


@report.figure("derivation_per_layer", data="derivation")
def per_layer() -> Figure:
    """Three layers, each a stage of its own."""
    return derivation_figure(DRAWN["per_layer"](), columns=2)


@report.figure("derivation_grouped", data="derivation")
def grouped() -> Figure:
    """Five layers in stages of two, two and one; the start is that of :func:`per_layer`."""
    return derivation_figure(DRAWN["grouped"](), columns=1, first=1)


@report.figure("derivation_pipedream", data="derivation")
def pipedream() -> Figure:
    """The same three layers with PipeDream's clock."""
    return derivation_figure(DRAWN["pipedream"](), columns=2)


@report.figure("derivation_residual", data="derivation")
def residual() -> Figure:
    """Layer, residual block, layer, a stage each: the start, the delayed gradients, and the end."""
    found = DRAWN["residual"]()
    steps, tall, strip = found.steps, HEIGHT - LOW, 0.95
    pairs = [(None, steps[0]), (steps[1], steps[2]), (steps[-2], steps[-1])]
    row_height = tall + _GAP + _TITLE
    height = len(pairs) * row_height + strip
    pitch = (style.DOUBLE - 0.08 - 2 * MARGIN) / len(found.network.operations)
    figure = Figure(figsize=(style.DOUBLE, height))
    for i, (before, step) in enumerate(pairs):
        low = height - (i + 1) * row_height
        axis = figure.add_axes(_share((0, low, style.DOUBLE - 0.08, tall), height))
        ResidualDrawing(axis, step, before.graph.registers if before else None, pitch).draw()
        _words(figure, 0.08, low + tall + 0.12, height, _title(step), FONT + 1)
    delays = ", ".join(f"{delay} for stage {k}" for k, delay in enumerate(found.delays))
    result = (
        f"1a and 1b: the block's layers; 1+: their output plus the block's input. Delays: {delays}.",
        "The block's input crosses the boundary once; its branches send a gradient each, which are added behind it.",
        "LayerPipe2's delays: 2S, with S stages behind a stage. Steps 1 and 3 are not drawn.",
    )
    _lines(figure, 0.08, strip - 0.15, height, [*result, *_KEY_LINES])
    return figure


_TITLE, _GAP, _LINE = 0.26, 0.08, 0.135
"""Heights in inches: of a drawing's title, between drawings, of a line of text."""


@style.drawn
def derivation_figure(derivation: Derivation, columns: int, first: int = 0) -> Figure:
    """The steps of a chain's derivation, ``columns`` side by side, then what came out, and a key.

    Args:
        derivation: of a chain (plain layers only).
        columns: drawings in a row.
        first: index of the first step to draw.
    """
    steps, width, row_height = derivation.steps[first:], style.DOUBLE / columns, HEIGHT + _GAP + _TITLE
    table, argument = _result(derivation)
    spare = len(steps) % columns  # a free place beside the last drawing takes the result
    strip = 0.0 if spare else 0.5 + _LINE * max(len(table), len(argument))
    height = -(-len(steps) // columns) * row_height + strip + 0.38
    pitch = (width - 0.08 - 2 * MARGIN) / len(derivation.network.operations)
    figure = Figure(figsize=(style.DOUBLE, height))
    for i, step in enumerate(steps):
        left, low = (i % columns) * width, height - (i // columns + 1) * row_height
        axis = figure.add_axes(_share((left, low, width - 0.08, HEIGHT + 0.1), height))
        before = derivation.steps[first + i - 1].graph.registers if first + i else None
        Drawing(axis, step, before, pitch).draw()
        _words(figure, left + 0.08, low + HEIGHT + 0.19, height, _title(step), FONT + 1)
    left, top = spare * width + 0.08, height - (len(steps) // columns) * row_height - 0.15
    _words(figure, left, top, height, _heading(derivation), FONT + 1)
    _lines(figure, left, top - 0.22, height, table, family="DejaVu Sans Mono")
    beside = (left, top - 0.4 - _LINE * len(table)) if spare else (left + style.DOUBLE / 2, top - 0.22)
    _lines(figure, *beside, height, argument)
    _lines(figure, 0.08, 0.25, height, _KEY_LINES)
    return figure


_TITLES = {
    "0": "Sequential training: registers of the weights alone",
    "1": "1  Registers at the input and output cutsets",
    "2": "2  Delayed gradients, as many as each loop needs",
    "2t": "2t  A tick between forward and backward",
    "3": "3  Retiming along two cutsets around stage 0",
}


_KEY_LINES = (
    "F forward, A activation gradient, G weight gradient, U update, ℓ loss. Box: registers (D = one tick); violet:",
    "changed by the step; dotted: emptied by it. Dashed: nodes delayed by the number beside, in ticks. Grey: a stage.",
)


def _title(step: Step) -> str:
    stage = step.number.removeprefix("4").removeprefix(".") or "1"
    return _TITLES.get(step.number, f"4  The same for the rest: stage {stage}")


def _heading(derivation: Derivation) -> str:
    whose = "PipeDream" if derivation.law.turn else "LayerPipe2"
    return f"Result: {whose}'s delays; S: stages behind a stage"


def _result(derivation: Derivation) -> tuple[list[str], list[str]]:
    """Registers of the last step by stage as a table, and the count of a loop that forbids fewer."""
    last, period, turn = derivation.num_stages - 1, derivation.pipeline.period, derivation.law.turn
    table = ["stage  S  delay  old weights  batches in flight"]
    for stage, delay in enumerate(derivation.delays):
        mine = next(op for op in derivation.history if derivation.pipeline.stage(f"F{op}") == stage)
        old, flying = derivation.history[mine], derivation.in_flight[mine]
        table.append(f"{stage:5}  {last - stage}  {delay:5}  {old:11}  {flying:17}")
    has = "1 + d" if period == 1 else f"{period} (1 + d)"
    needs, turned = ("S + S + 1 + 1", ", the turn at the end") if turn else ("S + S + 1", "")
    argument = [
        f"The loop of a layer, U F … ℓ … A G U, has {has} registers.",
        f"It needs {needs}: the boundaries there and back,",
        f"the weight register{turned}. Retiming keeps the sum,",
        f"so the delay d cannot be less than {'2S' if period == 1 else 'S'}; step 4 reaches it.",
    ]
    return table, argument


def _lines(figure: Figure, left: float, top: float, height: float, lines: Sequence[str], **looks: Any) -> None:
    for i, line in enumerate(lines):
        _words(figure, left, top - _LINE * i, height, line, FONT, **looks)


def _share(box: tuple[float, float, float, float], height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width, height from inches to shares of the figure."""
    return box[0] / style.DOUBLE, box[1] / height, box[2] / style.DOUBLE, box[3] / height


def _words(figure: Figure, left: float, low: float, height: float, text: str, size: float, **looks: Any) -> None:
    figure.text(left / style.DOUBLE, low / height, text, fontsize=size, color=INK, va="center", **looks)


ABOVE, BELOW = 0.21, 0.22
"""Distance of the shortcut's wires from the rows of F and A."""


LOW = -0.2
"""Lower edge of the drawing."""


BRANCH, JOIN = 0.44, ERROR + 0.13
"""Where the shortcut leaves the wire, left of an operation's middle, and where its gradient joins it, right of it."""


@dataclass(frozen=True)
class ResidualDrawing(Drawing):
    """A chain in which sums read an earlier operation as well; both operands of a sum cross the same boundary."""

    def draw(self) -> None:
        """The chain, then the shortcuts."""
        super().draw()
        self.axis.set_ylim(LOW, HEIGHT)
        for layer, name in enumerate(self.names):
            for source, _, _ in self.graph.topology.in_edges(f"F{name}", keys=True):
                if source.startswith("F") and source != f"F{self.names[layer - 1]}":
                    self._shortcut(self.names.index(source[1:]), layer)

    def label(self, name: str) -> str:
        """Unit and place in it: 1.conv1 is 1a, 1.conv2 is 1b, the sum is 1+."""
        unit, _, part = name.partition(".")
        return unit + {"": "", "conv1": "a", "conv2": "b", "add": "+"}[part]

    def _shortcut(self, start: int, end: int) -> None:
        """Activation from operation ``start`` to the sum ``end``, and its gradient back.

        The activation has left its boundary's register where the shortcut branches off; the gradient has a register
        of its own, and adds to that of the block's other branch.
        """
        over, under = ROWS["F"] + ABOVE, ROWS["A"] - BELOW
        branch, join, into, slope = self.x(start + 1) - BRANCH, self.x(start) + JOIN, self.x(end), 0.075
        self.pen.wire(
            [(branch, ROWS["F"]), (branch, over), (into - 0.26, over), (into - slope, ROWS["F"] + slope)], dot=True
        )
        self.pen.wire([(into - slope, ROWS["A"] - slope), (into - 0.26, under), (join, under), (join, ROWS["A"])])
        self.axis.plot(join, ROWS["A"], marker="o", markersize=1.8, color="#222222", zorder=3)
        self._box((self.x(start + 0.5), under), (f"A{self.names[end]}", f"A{self.names[start]}", "gradient"))
