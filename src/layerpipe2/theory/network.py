"""The forward pass of a layered network as a graph of operations, grouped into units that no stage boundary cuts.

An operation is a layer or a sum. A unit, which :func:`layerpipe2.stages.partition` moves as a whole, is one layer or a
residual block with its shortcut (He et al. 2015, 1512.03385).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from torch import nn

from layerpipe2.errors import UserError, integer

INPUT = "x"
"""Name by which an operation reads the network's input."""
UNIT_KINDS = ("layer", "block", "projection")
"""A plain layer; a residual block with an identity shortcut; one whose shortcut has weights of its own."""


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
        outputs = [name for name, readers in self.forward.out_degree() if not readers]
        if len(outputs) != 1:
            raise UserError(f"forward graph has outputs {', '.join(outputs)}; give it one operation that all lead to")

    @property
    def num_units(self) -> int:
        """Number of units ``L``."""
        return max(op.unit for op in self.operations) + 1

    @cached_property
    def forward(self) -> nx.DiGraph:
        """Operations and who reads whom, without the network's input."""
        graph = nx.DiGraph()
        graph.add_nodes_from(op.name for op in self.operations)
        graph.add_edges_from((source, op.name) for op in self.operations for source in op.inputs if source != INPUT)
        return graph

    @cached_property
    def ordered(self) -> tuple[Operation, ...]:
        """Operations, each after those that it reads; ties in the given order. The last one is the output."""
        place = {op.name: i for i, op in enumerate(self.operations)}
        order = nx.lexicographical_topological_sort(self.forward, key=place.__getitem__)
        return tuple(self.operations[place[name]] for name in order)


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
                back = f"edge {source} -> {op.name} leads from unit {unit[source]} back to unit {op.unit}"
                raise UserError(f"{back}; number the units along the forward pass")


def chain(num_units: int) -> LayeredNetwork:
    """Return ``num_units`` layers with weights, one after the other, named 0, 1, 2, ...

    Raises:
        UserError: if ``num_units`` is not an integer >= 1.
    """
    integer(num_units, "number of layers", 1)
    return from_units(["layer"] * num_units)


def from_units(kinds: Sequence[str]) -> LayeredNetwork:
    """Return a chain of units of :data:`UNIT_KINDS`, input side first.

    A block of unit 3 has the operations ``3.conv1``, ``3.conv2``, ``3.add`` and, with a projection, ``3.proj``.

    Raises:
        UserError: on an unknown kind, or no units.
    """
    operations: list[Operation] = []
    source = INPUT
    for unit, kind in enumerate(kinds):
        if kind not in UNIT_KINDS:
            raise UserError(f"unit {unit} is of unknown kind '{kind}'; known: {', '.join(UNIT_KINDS)}")
        if kind == "layer":
            operations.append(Operation(f"{unit}", unit, (source,)))
        else:
            first, second, shortcut = f"{unit}.conv1", f"{unit}.conv2", source
            operations += [Operation(first, unit, (source,)), Operation(second, unit, (first,))]
            if kind == "projection":
                shortcut = f"{unit}.proj"
                operations.append(Operation(shortcut, unit, (source,)))
            operations.append(Operation(f"{unit}.add", unit, (second, shortcut), weighted=False))
        source = operations[-1].name
    return LayeredNetwork(tuple(operations))


def layered(units: Sequence[nn.Module]) -> LayeredNetwork:
    """Return the forward graph of a network's units, input side first.

    A unit with a ``shortcut`` is a residual block of two convolutions; any other unit stands as one layer.
    """
    return from_units([_kind(unit) for unit in units])


def _kind(unit: nn.Module) -> str:
    shortcut = getattr(unit, "shortcut", None)
    if not isinstance(shortcut, nn.Module):
        return "layer"
    return "block" if isinstance(shortcut, nn.Identity) else "projection"


def group_sizes(num_units: int, group_size: int | None = None, groups: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return units per stage, input side first. Without ``group_size`` and ``groups`` every unit is a stage.

    Args:
        num_units: units of the network.
        group_size: units of every stage but the last, which takes the rest (as ``layerpipe2.stages.partition``).
        groups: units of each stage, in place of ``group_size``.

    Raises:
        UserError: if both are given, a group is empty, or the groups don't sum to ``num_units``.
    """
    if groups is not None and group_size is not None:
        raise UserError(f"both group_size {group_size} and groups {list(groups)} are given; give one of them")
    if groups is None:
        size = 1 if group_size is None else group_size
        integer(size, f"group size for {num_units} units", 1, num_units)
        return tuple(min(size, num_units - first) for first in range(0, num_units, size))
    for k, size in enumerate(groups):
        integer(size, f"number of units in group {k}", 1)
    if sum(groups) != num_units:
        raise UserError(f"groups {list(groups)} hold {sum(groups)} units but the network has {num_units}")
    return tuple(groups)
