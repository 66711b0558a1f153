"""The derivation with a residual block: the chain's drawing, and the shortcut above and below it."""

from __future__ import annotations

from dataclasses import dataclass

from layerpipe2.theory.graph import Edge
from paper_figures.figures.derivation_graph import ERROR, HEIGHT, ROWS, Drawing

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
        branch, join, slope = self.x(start + 1) - BRANCH, self.x(start) + JOIN, 0.075
        into = self.x(end)
        self.pen.wire(
            [(branch, ROWS["F"]), (branch, over), (into - 0.26, over), (into - slope, ROWS["F"] + slope)], dot=True
        )
        self.pen.wire([(into - slope, ROWS["A"] - slope), (into - 0.26, under), (join, under), (join, ROWS["A"])])
        self.axis.plot(join, ROWS["A"], marker="o", markersize=1.8, color="#222222", zorder=3)
        gradient: Edge = (f"A{self.names[end]}", f"A{self.names[start]}", "gradient")
        self.pen.box((self.x(start + 0.5), under), self._count(gradient), self._moved(gradient))
