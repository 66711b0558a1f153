"""The moves that a derivation is made of; each one checks that it is legal and names the edge where it is not.

* Feed-forward cutset insertion: delays the results, changes nothing else.
* Delayed-gradient insertion on the edges gradient -> update: changes what is computed in the one way that the delayed
  LMS algorithm allows; all other moves keep the function.
* Retiming (Leiserson & Saxe 1991): ``w_r(e) = w(e) + r(v) - r(u)`` for an edge e from u to v, with a lag ``r`` in ticks
  for every node. The registers of a loop, and of a path between the outside nodes, keep their sum. Retiming along a
  cutset is the case where all nodes of one side have the same lag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from layerpipe2.errors import UserError
from layerpipe2.theory.cutsets import feedforward_cutset, loop_through
from layerpipe2.theory.graph import HOST, INPUTS, Edge, SignalFlowGraph, name_of


class IllegalMove(UserError):
    """A move that a signal-flow graph does not allow; the message names the edge or node."""


def insert_at_cutset(graph: SignalFlowGraph, upstream: Collection[str], count: int) -> SignalFlowGraph:
    """Put ``count`` registers on every edge that leaves the nodes ``upstream``.

    Raises:
        UserError: if the cutset is not feed-forward, or ``count`` is negative.
    """
    if count < 0:
        raise IllegalMove(f"cutset insertion of {count} registers; give a number >= 0 and retime")
    edges = feedforward_cutset(graph, upstream)
    return graph.with_registers({edge: graph.registers[edge] + count for edge in edges})


def insert_registers(graph: SignalFlowGraph, additions: Mapping[Edge, int]) -> SignalFlowGraph:
    """Put registers on edges of a feed-forward cutset or gradient -> update edges; anything else is refused.

    Raises:
        IllegalMove: naming the edge and the loop or the path whose delay would change.
    """
    delays = {edge: count for edge, count in additions.items() if edge[2] == "step"}
    others = {edge: count for edge, count in additions.items() if edge[2] != "step"}
    for edge in others:
        loop = loop_through(graph, edge) if graph.topology.has_edge(*edge) else []
        if loop:
            raise IllegalMove(
                f"edge {name_of(edge)} takes no registers: it lies on the loop {' -> '.join(loop)}, whose delay would "
                "change; insert on the gradient -> update edge and retime"
            )
    changed = graph.with_registers({edge: graph.registers.get(edge, 0) + count for edge, count in others.items()})
    lags_between(graph, changed, free_output=True)
    return insert_delayed_gradients(changed, {edge[0][1:]: count for edge, count in delays.items()})


def insert_delayed_gradients(graph: SignalFlowGraph, ticks: Mapping[str, int]) -> SignalFlowGraph:
    """Put ``ticks[l]`` registers on the edge ``Gl -> Ul`` of the operations ``l`` named.

    Raises:
        IllegalMove: on an operation without weights, a negative number, or one that is no multiple of the period: a
            gradient can be late by whole updates only.
    """
    changes: dict[Edge, int] = {}
    for operation, count in ticks.items():
        edge = (f"G{operation}", f"U{operation}", "step")
        if not graph.topology.has_edge(*edge):
            raise IllegalMove(f"operation '{operation}' has no gradient -> update edge; give one that has weights")
        if count < 0 or count % graph.period:
            raise IllegalMove(
                f"edge {name_of(edge)} is given {count} registers; give a multiple >= 0 of {graph.period}"
            )
        changes[edge] = graph.registers[edge] + count
    return graph.with_registers(changes)


def retime(graph: SignalFlowGraph, lags: Mapping[str, int]) -> SignalFlowGraph:
    """Delay nodes by their ``lags`` in ticks (negative: advance them); nodes not named keep their time.

    Raises:
        IllegalMove: on an unknown node, a lag of an outside node, or an edge left with a negative number of registers.
    """
    for node, lag in lags.items():
        if node not in graph.nodes:
            raise IllegalMove(f"retiming names an unknown node '{node}'; nodes are loss, F0, A0, G0, U0 ...")
        if lag and node in HOST:
            raise IllegalMove(f"retiming lags the outside node '{node}' by {lag}; insert at a cutset instead")
    changes: dict[Edge, int] = {}
    for u, v, kind in graph.edges:
        move = lags.get(v, 0) - lags.get(u, 0)
        if move:
            changes[u, v, kind] = graph.registers[u, v, kind] + move
            if changes[u, v, kind] < 0:
                raise IllegalMove(
                    f"retiming leaves edge {name_of((u, v, kind))} with {changes[u, v, kind]} registers; "
                    f"lag {v} less or {u} more, or insert registers there first"
                )
    return graph.with_registers(changes)


def retime_cutset(graph: SignalFlowGraph, nodes: Collection[str], count: int) -> SignalFlowGraph:
    """Move ``count`` registers from every edge that leaves ``nodes`` to every edge that enters them.

    With a negative ``count`` they move the other way.

    Raises:
        IllegalMove: as :func:`retime`.
    """
    return retime(graph, dict.fromkeys(nodes, count))


def lags_between(before: SignalFlowGraph, after: SignalFlowGraph, *, free_output: bool = False) -> dict[str, int]:
    """The lags that retime ``before`` into ``after``: proof that both compute the same.

    Args:
        before: a graph.
        after: the same graph with other registers.
        free_output: results may come later (cutset insertion); otherwise the outside keeps its time.

    Raises:
        IllegalMove: naming an edge of a loop, or of a path between outside nodes, whose delay differs.
    """
    lags = dict.fromkeys(INPUTS if free_output else HOST, 0)
    neighbours: dict[str, list[tuple[str, int]]] = {node: [] for node in before.nodes}
    for u, v, kind in before.edges:
        move = after.registers[u, v, kind] - before.registers[u, v, kind]
        neighbours[u].append((v, move))
        neighbours[v].append((u, -move))
    for start in [*lags, *before.nodes]:
        lags.setdefault(start, 0)
        queue = deque([start])
        while queue:
            u = queue.popleft()
            for v, move in neighbours[u]:
                if v not in lags:
                    lags[v] = lags[u] + move
                    queue.append(v)
    for u, v, kind in before.edges:
        if after.registers[u, v, kind] - before.registers[u, v, kind] != lags[v] - lags[u]:
            raise IllegalMove(
                f"edge {name_of((u, v, kind))} changes the delay of a loop or an input-output path; keep both"
            )
    return lags
