"""The signal-flow graph of training: who computes what from whom, and how many registers lie between.

Nodes, with ``l`` the name of an operation:

==========  =====================================================================================
``x`` ``y``   sources: a mini-batch of inputs, its targets
``Fl``        forward task
``loss``      loss and its gradient at the network's output
``Al``        activation gradient: the gradient at the operation's input
``Gl``        weight gradient
``Ul``        update: adds the step to the weights; its output is ``W(t+1)``
``out``       sink: the loss, and the gradient at the network's input
==========  =====================================================================================

An edge is the triple (source, target, kind); kinds are the keys of :data:`KINDS`. Its registers hold one value each
and move on once per tick. The weight register of an update is the one register on its edges ``state`` (to itself),
``weight`` and ``history``: ``W(t) = W(t-1) - step``, so training is a feedback loop with exactly one register, which
is why it can't simply be pipelined (Parhi, VLSI Digital Signal Processing Systems, ch. 2 and 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx

from layerpipe2.errors import UserError, integer
from layerpipe2.theory.network import INPUT, LayeredNetwork, Operation

Edge = tuple[str, str, str]

KINDS: dict[str, str] = {
    "activation": "Fl -> Fm, x -> Fl, Fl -> loss: what the next forward task reads",
    "target": "y -> loss",
    "kept": "Fl -> Al: what the backward task needs of the forward task (masks, normalised activations)",
    "operand": "F(l-1) -> Gl, x -> Gl: the layer's input, a factor of the weight gradient",
    "gradient": "Am -> Al, loss -> Al: gradient that travels towards the input",
    "error": "Am -> Gl, loss -> Gl: gradient at the layer's output, the other factor of the weight gradient",
    "step": "Gl -> Ul: the only edge of a loop that takes a delay (delayed-gradient adaptation)",
    "weight": "Ul -> Fl: weights that the forward task reads",
    "history": "Ul -> Al: the same weights, for the activation gradient of the same mini-batch",
    "state": "Ul -> Ul: the update accumulates",
    "output": "loss -> out, Al -> out",
}
"""Kind of an edge -> what flows over it."""

INPUTS, OUTPUT = ("x", "y"), "out"
HOST = (*INPUTS, OUTPUT)
"""The outside world: its nodes keep their time, so that no retiming changes when a result is due."""


@dataclass(frozen=True)
class SignalFlowGraph:
    """Nodes and edges that never change, and the registers on the edges, which the steps of a derivation move.

    Attributes:
        topology: frozen ``networkx.MultiDiGraph``; nodes carry ``kind``, ``operation``, ``unit``, ``stage``.
        registers: number of registers (ticks of delay) on every edge.
        period: ticks from one mini-batch to the next; the graph is slowed down by this factor (c-slow).

    Raises:
        UserError: if an edge has no register count, or a negative one.
    """

    topology: nx.MultiDiGraph
    registers: Mapping[Edge, int]
    period: int = 1

    def __post_init__(self) -> None:
        for edge in self.edges:
            if edge not in self.registers:
                raise UserError(f"edge {name_of(edge)} has no register count; give an integer >= 0")
            integer(self.registers[edge], f"number of registers on edge {name_of(edge)}", 0)

    @property
    def edges(self) -> Iterator[Edge]:
        """All edges, in the order in which they were built."""
        return iter(self.topology.edges(keys=True))

    @property
    def nodes(self) -> Mapping[str, dict[str, Any]]:
        """Node name -> its attributes."""
        found: Mapping[str, dict[str, Any]] = self.topology.nodes
        return found

    @property
    def operations(self) -> list[str]:
        """Names of the operations with weights, input side first."""
        return [data["operation"] for _, data in self.topology.nodes(data=True) if data["kind"] == "update"]

    @property
    def num_stages(self) -> int:
        """Number of stages ``K``."""
        return 1 + max(int(data["stage"]) for data in self.nodes.values())

    def stage(self, node: str) -> int:
        """Return the stage that runs a node; the sources belong to stage 0, the loss to the last one."""
        return int(self.nodes[node]["stage"])

    def of_kind(self, kind: str) -> list[Edge]:
        """Return the edges of one kind."""
        return [edge for edge in self.edges if edge[2] == kind]

    def with_registers(self, changes: Mapping[Edge, int]) -> SignalFlowGraph:
        """Return the graph with other counts on some edges; checks signs only: legal moves are in ``moves``.

        Raises:
            UserError: on an unknown edge or a negative count.
        """
        for edge in changes:
            if not self.topology.has_edge(*edge):
                raise UserError(f"graph has no edge {name_of(edge)}; see its table for those that there are")
        return replace(self, registers={**self.registers, **changes})

    def networkx(self) -> nx.MultiDiGraph:
        """Return a copy for networkx, with the attribute ``registers`` on every edge."""
        graph = nx.MultiDiGraph(period=self.period)
        graph.add_nodes_from(self.topology.nodes(data=True))
        graph.add_edges_from((u, v, kind, {"registers": self.registers[u, v, kind]}) for u, v, kind in self.edges)
        return graph


def name_of(edge: Edge) -> str:
    """Name an edge in messages: ``G0 -> U0 (step)``."""
    return f"{edge[0]} -> {edge[1]} ({edge[2]})"


def training_graph(network: LayeredNetwork, stages: Sequence[int], period: int = 1) -> SignalFlowGraph:
    """Build the graph of sequential training: ``period`` registers where the weights are, none elsewhere.

    Args:
        network: the forward pass.
        stages: stage of every unit, not decreasing.
        period: ticks from one mini-batch to the next; all registers are multiplied by it (c-slow transformation).
    """
    topology, last = nx.MultiDiGraph(), stages[-1]
    for node, kind, stage in (("x", "input", 0), ("y", "input", last)):
        topology.add_node(node, kind=kind, operation="", unit=-1, stage=stage)
    for letter, kind in TASKS.items():
        for op in network.ordered:
            if op.weighted or letter in "FA":
                where = {"operation": op.name, "unit": op.unit, "stage": stages[op.unit]}
                topology.add_node(f"{letter}{op.name}", kind=kind, **where)
        if letter == "F":
            topology.add_node("loss", kind="loss", operation="", unit=-1, stage=last)
    topology.add_node(OUTPUT, kind="output", operation="", unit=-1, stage=0)
    weighted = {op.name for op in network.operations if op.weighted}
    for op in network.ordered:
        topology.add_edges_from(_edges_of(op, weighted, op == network.ordered[-1]))
    topology.add_edges_from([("y", "loss", "target"), ("loss", OUTPUT, "output")])
    behind_updates = {"weight", "history", "state"}
    registers = {(u, v, kind): period if kind in behind_updates else 0 for u, v, kind in topology.edges(keys=True)}
    return SignalFlowGraph(nx.freeze(topology), registers, period)


TASKS = {"F": "forward", "A": "activation gradient", "G": "weight gradient", "U": "update"}
"""Letter of a node's name -> its task."""


def _edges_of(op: Operation, weighted: set[str], is_output: bool) -> Iterator[Edge]:
    """Yield edges that an operation adds: from its sources, from its own weights, and gradients to its sources."""
    forward, backward, gradient, update = (f"{letter}{op.name}" for letter in "FAGU")
    for source in op.inputs:
        outside = source == INPUT
        here = INPUTS[0] if outside else f"F{source}"
        yield here, forward, "activation"
        if op.weighted:
            yield here, gradient, "operand"
        yield (backward, OUTPUT, "output") if outside else (backward, f"A{source}", "gradient")
        if source in weighted:
            yield backward, f"G{source}", "error"
    yield forward, backward, "kept"
    if op.weighted:
        yield gradient, update, "step"
        yield update, forward, "weight"
        yield update, backward, "history"
        yield update, update, "state"
    if is_output:
        yield forward, "loss", "activation"
        yield "loss", backward, "gradient"
        if op.weighted:
            yield "loss", gradient, "error"
