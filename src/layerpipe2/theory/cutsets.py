"""Feed-forward cutsets, and with them the places where registers may legally be inserted.

A cutset is the set of edges between two parts of the graph. It is feed-forward if all of them lead the same way. The
same number of registers on every edge of a feed-forward cutset delays the results and changes nothing else (Parhi,
VLSI Digital Signal Processing Systems, section 3.2). An edge lies in a feed-forward cutset exactly if it lies on no
loop: if it does not, the nodes that its head can reach are one side of such a cutset; if it does, the loop must cross
any cutset through it in both directions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import networkx as nx

from layerpipe2.errors import UserError
from layerpipe2.theory.graph import Edge, SignalFlowGraph, name_of

FEED_FORWARD, DELAYED_GRADIENT, LOOP = "feed-forward cutset", "delayed gradient", "loop"
"""Kinds of places: registers may be inserted with a whole cutset; alone, as a delayed gradient; only moved."""


def cutset(graph: SignalFlowGraph, upstream: Collection[str]) -> tuple[list[Edge], list[Edge]]:
    """Edges that leave the nodes ``upstream`` and edges that enter them.

    Raises:
        UserError: on an unknown node, or if one side is empty.
    """
    side = set(upstream)
    unknown = sorted(side - set(graph.nodes))
    if unknown:
        raise UserError(f"cutset names an unknown node '{unknown[0]}'; nodes are x, y, loss, out, F0, A0, G0, U0 ...")
    if not side or len(side) == len(graph.nodes):
        raise UserError("cutset has all nodes on one side; give some of the graph's nodes, not none and not all")
    leaving = [edge for edge in graph.edges if edge[0] in side and edge[1] not in side]
    entering = [edge for edge in graph.edges if edge[0] not in side and edge[1] in side]
    return leaving, entering


def feedforward_cutset(graph: SignalFlowGraph, upstream: Collection[str]) -> list[Edge]:
    """The cutset between ``upstream`` and the rest, if all its edges leave ``upstream``.

    Raises:
        UserError: naming an edge that leads back.
    """
    leaving, entering = cutset(graph, upstream)
    if entering:
        raise UserError(
            f"cutset is not feed-forward: edge {name_of(entering[0])} leads back; "
            "put both of its nodes on one side, or move registers by retiming"
        )
    return leaving


def cutset_through(graph: SignalFlowGraph, edge: Edge) -> list[Edge]:
    """A feed-forward cutset that holds ``edge``.

    Raises:
        UserError: if the edge lies on a loop, naming the loop.
    """
    loop = loop_through(graph, edge)
    if loop:
        raise UserError(f"edge {name_of(edge)} is in no feed-forward cutset, it lies on the loop {' -> '.join(loop)}")
    below = nx.descendants(graph.topology, edge[1]) | {edge[1]}
    return feedforward_cutset(graph, set(graph.nodes) - below)


def feedforward_cutsets(graph: SignalFlowGraph) -> Iterator[list[Edge]]:
    """All feed-forward cutsets, each once; their number can grow exponentially with parallel branches.

    Loops are shrunk to points; what remains has no cycle, and each of its sets of points that holds all predecessors
    of its members is the upstream side of one feed-forward cutset.
    """
    shrunk = nx.condensation(graph.topology)
    order = list(nx.topological_sort(shrunk))
    pending: list[tuple[int, frozenset[int]]] = [(0, frozenset())]
    while pending:
        place, chosen = pending.pop()
        if place < len(order):
            point = order[place]
            if chosen.issuperset(shrunk.predecessors(point)):
                pending.append((place + 1, chosen | {point}))
            pending.append((place + 1, chosen))
        elif 0 < len(chosen) < len(order):
            yield feedforward_cutset(graph, {node for point in chosen for node in shrunk.nodes[point]["members"]})


def loop_through(graph: SignalFlowGraph, edge: Edge) -> list[str]:
    """Nodes of a shortest loop through ``edge``, first one repeated at the end; empty if there is none."""
    try:
        back: list[str] = nx.shortest_path(graph.topology, edge[1], edge[0])
    except nx.NetworkXNoPath:
        return []
    return [edge[0], *back] if edge[0] != edge[1] else [edge[0], edge[0]]


def places(graph: SignalFlowGraph) -> dict[Edge, str]:
    """For every edge, how registers may come onto it.

    ``feed-forward cutset``: with the rest of a cutset, at the price of latency only. ``delayed gradient``: on this
    edge alone, at the price of an older gradient (delayed LMS; Long, Ling & Proakis 1989). ``loop``: only by retiming,
    since any insertion would change what the loop computes.
    """
    component = {n: i for i, members in enumerate(nx.strongly_connected_components(graph.topology)) for n in members}

    def place(edge: Edge) -> str:
        if component[edge[0]] != component[edge[1]]:
            return FEED_FORWARD
        return DELAYED_GRADIENT if edge[2] == "step" else LOOP

    return {edge: place(edge) for edge in graph.edges}
