"""The forward pass of a layered network as a graph of operations, grouped into units that no stage boundary cuts.

An operation is a layer or a sum; a unit is what :func:`layerpipe2.stages.partition` moves as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from layerpipe2.errors import UserError

INPUT = "x"
"""Name by which an operation reads the network's input."""


@dataclass(frozen=True)
class Operation:
    """One node of the forward pass.

    Attributes:
        name: unique; the nodes of the signal-flow graph are called F, A, G, U followed by it.
        unit: index of its unit, 0 at the input side.
        inputs: names of the operations that it reads, or :data:`INPUT`.
        weighted: whether it has weights; a sum has none.
    """

    name: str
    unit: int
    inputs: tuple[str, ...]
    weighted: bool = True


@dataclass(frozen=True)
class LayeredNetwork:
    """Operations of a network; any order, checked when it is made.

    Raises:
        UserError: on no operations, a repeated or unknown name, a cycle, an edge back to an earlier unit, a unit
            without operations, or not exactly one output.
    """

    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        _check_names(self.operations)
        _check_cycles(self.forward)
        _check_units(self.operations)
        outputs = self._outputs()
        if len(outputs) != 1:
            raise UserError(f"forward graph has outputs {', '.join(outputs)}; give it one operation that all lead to")

    @property
    def num_units(self) -> int:
        """Number of units ``L``."""
        return max(op.unit for op in self.operations) + 1

    @property
    def output(self) -> str:
        """Name of the last operation."""
        return self._outputs()[0]

    @cached_property
    def forward(self) -> nx.DiGraph:
        """Operations and who reads whom, without the network's input."""
        graph = nx.DiGraph()
        graph.add_nodes_from(op.name for op in self.operations)
        graph.add_edges_from((source, op.name) for op in self.operations for source in op.inputs if source != INPUT)
        return graph

    @cached_property
    def ordered(self) -> tuple[Operation, ...]:
        """Operations, each after those that it reads; ties in the given order."""
        place = {op.name: i for i, op in enumerate(self.operations)}
        order = nx.lexicographical_topological_sort(self.forward, key=place.__getitem__)
        return tuple(self.operations[place[name]] for name in order)

    def _outputs(self) -> list[str]:
        return [op.name for op in self.operations if self.forward.out_degree(op.name) == 0]


def _check_names(operations: Sequence[Operation]) -> None:
    if not operations:
        raise UserError("forward graph has no operations; give at least one")
    known: set[str] = {INPUT}
    for op in operations:
        if op.name in known:
            raise UserError(f"forward graph has two nodes named '{op.name}'; give every operation its own name")
        known.add(op.name)
    for op in operations:
        for source in op.inputs:
            if source not in known:
                raise UserError(f"edge {source} -> {op.name} starts at an unknown node '{source}'; declare it first")
        if not op.inputs:
            raise UserError(f"node '{op.name}' reads nothing; give it an input, '{INPUT}' for the network's own")


def _check_cycles(forward: nx.DiGraph) -> None:
    try:
        cycle = nx.find_cycle(forward)
    except nx.NetworkXNoCycle:
        return
    path = " -> ".join([*(source for source, _ in cycle), cycle[0][0]])
    raise UserError(f"forward graph is cyclic: {path}; remove the edge {cycle[-1][0]} -> {cycle[-1][1]}")


def _check_units(operations: Sequence[Operation]) -> None:
    unit = {op.name: op.unit for op in operations} | {INPUT: 0}
    missing = set(range(max(unit.values()) + 1)) - {op.unit for op in operations}
    if missing or min(unit.values()) < 0:
        raise UserError(f"unit {min(missing, default=min(unit.values()))} has no operations; number units from 0")
    for op in operations:
        for source in op.inputs:
            if unit[source] > op.unit:
                raise UserError(
                    f"edge {source} -> {op.name} leads from unit {unit[source]} back to unit {op.unit}; "
                    "number the units along the forward pass"
                )
