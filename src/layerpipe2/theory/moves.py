"""The moves that a derivation is made of; each one checks that it is legal and names the edge where it is not.

* Feed-forward cutset insertion (see below): delays the results, changes nothing else.
* Delayed-gradient insertion on the edges gradient -> update: changes what is computed in the one way that the delayed
  LMS algorithm allows; all other moves keep the function.
* Retiming (Leiserson & Saxe 1991): ``w_r(e) = w(e) + r(v) - r(u)`` for an edge e from u to v, with a lag ``r`` in ticks
  for every node. The registers of a loop, and of a path between the outside nodes, keep their sum. Retiming along a
  cutset is the case where all nodes of one side have the same lag.

A cutset is the set of edges between two parts of the graph. It is feed-forward if all of them lead the same way. The
same number of registers on every edge of a feed-forward cutset delays the results and changes nothing else (Parhi,
VLSI Digital Signal Processing Systems, section 3.2). An edge lies in a feed-forward cutset exactly if it lies on no
loop: if it does not, the nodes that its head can reach are one side of such a cutset; if it does, the loop must cross
any cutset through it in both directions.
"""

from collections.abc import Collection, Mapping

import networkx as nx

from layerpipe2.errors import UserError
from layerpipe2.theory.graph import HOST, Edge, SignalFlowGraph, name_of

FEED_FORWARD, DELAYED_GRADIENT, LOOP = "feed-forward cutset", "delayed gradient", "loop"
"""Kinds of places: registers may be inserted with a whole cutset; alone, as a delayed gradient; only moved."""


def feedforward_cutset(graph: SignalFlowGraph, upstream: Collection[str]) -> list[Edge]:
    """Return the cutset between ``upstream`` and the rest, if all its edges leave ``upstream``.

    Raises:
        UserError: on an unknown node, if one side is empty, or naming an edge that leads back.
    """
    side = set(upstream)
    unknown = sorted(side - set(graph.nodes))
    if unknown:
        raise UserError(f"cutset names an unknown node '{unknown[0]}'; nodes are x, y, loss, out, F0, A0, G0, U0 ...")
    if not side or len(side) == len(graph.nodes):
        raise UserError("cutset has all nodes on one side; give some of the graph's nodes, not none and not all")
    crossing = [edge for edge in graph.edges if (edge[0] in side) != (edge[1] in side)]
    for edge in crossing:
        if edge[1] in side:
            what = f"cutset is not feed-forward: edge {name_of(edge)} leads back"
            raise UserError(f"{what}; put both of its nodes on one side, or move registers by retiming")
    return crossing


def loop_through(graph: SignalFlowGraph, edge: Edge) -> list[str]:
    """Return nodes of a shortest loop through ``edge``, the first repeated at the end; empty if there is none."""
    try:
        back: list[str] = nx.shortest_path(graph.topology, edge[1], edge[0])
    except nx.NetworkXNoPath:
        return []
    return [edge[0], *back] if edge[0] != edge[1] else [edge[0], edge[0]]


def places(graph: SignalFlowGraph) -> dict[Edge, str]:
    """Say for every edge how registers may come onto it.

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


def insert_at_cutset(graph: SignalFlowGraph, upstream: Collection[str], count: int) -> SignalFlowGraph:
    """Put ``count`` registers on every edge that leaves the nodes ``upstream``.

    Raises:
        UserError: if the cutset is not feed-forward, or ``count`` is negative.
    """
    if count < 0:
        raise UserError(f"cutset insertion of {count} registers; give a number >= 0 and retime")
    edges = feedforward_cutset(graph, upstream)
    return graph.with_registers({edge: graph.registers[edge] + count for edge in edges})


def insert_delayed_gradients(graph: SignalFlowGraph, ticks: Mapping[str, int]) -> SignalFlowGraph:
    """Put ``ticks[l]`` registers on the edge ``Gl -> Ul`` of the operations ``l`` named.

    Raises:
        UserError: on an operation without weights, a negative number, or one that is no multiple of the period: a
            gradient can be late by whole updates only.
    """
    changes: dict[Edge, int] = {}
    for operation, count in ticks.items():
        edge = (f"G{operation}", f"U{operation}", "step")
        if not graph.topology.has_edge(*edge):
            raise UserError(f"operation '{operation}' has no gradient -> update edge; give one that has weights")
        if count < 0 or count % graph.period:
            raise UserError(f"edge {name_of(edge)} is given {count} registers; give a multiple >= 0 of {graph.period}")
        changes[edge] = graph.registers[edge] + count
    return graph.with_registers(changes)


def retime(graph: SignalFlowGraph, lags: Mapping[str, int]) -> SignalFlowGraph:
    """Delay nodes by their ``lags`` in ticks (negative: advance them); nodes not named keep their time.

    Raises:
        UserError: on an unknown node, a lag of an outside node, or an edge left with a negative number of registers.
    """
    for node, lag in lags.items():
        if node not in graph.nodes:
            raise UserError(f"retiming names an unknown node '{node}'; nodes are loss, F0, A0, G0, U0 ...")
        if lag and node in HOST:
            raise UserError(f"retiming lags the outside node '{node}' by {lag}; insert at a cutset instead")
    changes: dict[Edge, int] = {}
    for u, v, kind in graph.edges:
        move = lags.get(v, 0) - lags.get(u, 0)
        if move:
            changes[u, v, kind] = graph.registers[u, v, kind] + move
            if changes[u, v, kind] < 0:
                what = f"retiming leaves edge {name_of((u, v, kind))} with {changes[u, v, kind]} registers"
                raise UserError(f"{what}; lag {v} less or {u} more, or insert registers there first")
    return graph.with_registers(changes)


def lags_between(before: SignalFlowGraph, after: SignalFlowGraph) -> dict[str, int]:
    """Find lags that retime ``before`` into ``after``, the same graph with other registers: both compute the same.

    Raises:
        UserError: naming an edge of a loop, or of a path between outside nodes, whose delay differs.
    """
    moves = {edge: after.registers[edge] - before.registers[edge] for edge in before.edges}
    steps = {(v, u): -move for (u, v, _), move in moves.items()} | {(u, v): move for (u, v, _), move in moves.items()}
    lags = {HOST[0]: 0}
    for u, v in nx.bfs_edges(before.topology.to_undirected(as_view=True), HOST[0]):
        lags[v] = lags[u] + steps[u, v]
    lags |= dict.fromkeys(HOST, 0)
    for edge, move in moves.items():
        if move != lags[edge[1]] - lags[edge[0]]:
            raise UserError(f"edge {name_of(edge)} changes the delay of a loop or an input-output path; keep both")
    return lags
