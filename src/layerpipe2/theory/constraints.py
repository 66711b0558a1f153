"""What a pipeline asks of its registers, and systems of difference constraints that decide whether it can be had.

A retiming must leave ``w(e) + r(v) - r(u) >= required(e)`` on every edge. Such a system is solved by shortest paths
(Leiserson & Saxe 1991, theorem 7): it has a solution unless the constraint graph has a negative cycle, and a shortest
path to and from a node bounds its lag from above and below.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from layerpipe2.theory.graph import HOST, Edge, SignalFlowGraph

Matrix = NDArray[np.float64]


def required_registers(graph: SignalFlowGraph, turn: int) -> dict[Edge, int]:
    """Return the registers that every edge must have at least once the stages work at the same time.

    * An edge from one stage to another: one per boundary that it crosses, for what it carries is on its way for a tick.
    * ``loss -> A`` and ``loss -> G``: ``turn``, 1 if a stage can't do a forward and a backward task in one tick.
    * ``weight`` and ``history``: one, the weight register: a tick's tasks start from weights that the tick before left.
      Without this one (update and forward chained within a tick) every delay but the last stage's could be one less.
    """
    travels, needs = ("activation", "operand", "gradient", "error"), {}
    for u, v, kind in graph.edges:
        needs[u, v, kind] = abs(graph.stage(v) - graph.stage(u)) if kind in travels else 0
        if u == "loss" and kind in ("gradient", "error"):
            needs[u, v, kind] += turn
        if kind in ("weight", "history"):
            needs[u, v, kind] = 1
    return needs


def minimum_delays(graph: SignalFlowGraph, required: Mapping[Edge, int]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return the delay of each gradient that no pipeline can go below, and the loop that proves it.

    Retiming keeps the registers of a loop. So ``Gl -> Ul`` must be given what the longest path ``Ul -> ... -> Gl``
    asks for beyond what it has, rounded up to whole updates. Paths over other ``step`` edges need not be looked at:
    their delays are free, and :func:`layerpipe2.theory.derivation.derive` reaches these bounds all at once.

    Returns:
        Delays in updates, and loops as lists of nodes, by operation.
    """
    paths = nx.DiGraph()
    for edge in graph.edges:
        if edge[2] not in ("step", "state"):
            lack = required[edge] - graph.registers[edge]
            if not paths.has_edge(*edge[:2]) or paths.edges[edge[:2]]["lack"] < lack:
                paths.add_edge(*edge[:2], lack=lack)
    place = {node: i for i, node in enumerate(nx.topological_sort(paths))}
    order = sorted(place, key=place.__getitem__)
    delays, loops = {}, {}
    for operation in graph.operations:
        lack, loops[operation] = _longest_path(paths, order[place[f"U{operation}"] :], f"G{operation}")
        delays[operation] = max(0, math.ceil(lack / graph.period))
    return delays, loops


def _longest_path(paths: nx.DiGraph, order: list[str], goal: str) -> tuple[int, list[str]]:
    """Return the longest path's length from the first node of ``order`` to ``goal``, and the loop that it closes."""
    far: dict[str, tuple[int, int]] = {order[0]: (0, 0)}  # length; of equal ones that with most edges
    before: dict[str, str] = {}
    for u in order:
        if u not in far:
            continue
        for v, data in paths.adj[u].items():
            reach = (far[u][0] + data["lack"], far[u][1] + 1)
            if v not in far or reach > far[v]:
                far[v], before[v] = reach, u
    path = [goal]
    while path[-1] != order[0]:
        path.append(before[path[-1]])
    return far[goal][0], [*reversed(path), order[0]]


def slack_matrix(nodes: list[str], slacks: Iterable[tuple[str, str, float]], fixed: Collection[str]) -> Matrix:
    """Return the matrix C of the constraints ``r(u) <= r(v) + C[u, v]``.

    Args:
        nodes: in the order of rows and columns.
        slacks: (u, v, slack) of every edge from u to v; of several between two nodes the least counts.
        fixed: nodes whose lags are equal.
    """
    place = {node: i for i, node in enumerate(nodes)}
    matrix = np.full((len(nodes), len(nodes)), np.inf)
    np.fill_diagonal(matrix, 0.0)
    for u, v, slack in slacks:
        matrix[place[u], place[v]] = min(matrix[place[u], place[v]], slack)
    together = np.ix_([place[node] for node in fixed], [place[node] for node in fixed])
    matrix[together] = np.minimum(matrix[together], 0.0)
    return matrix


def solve(slack: Matrix, below: NDArray[np.float64] | None = None) -> NDArray[np.float64] | None:
    """Find the largest lags up to ``below`` (0) with ``r(u) <= r(v) + C[u, v]`` (Bellman-Ford); None without any."""
    lags = np.zeros(len(slack)) if below is None else below
    for _ in range(len(slack) + 1):
        lower = (slack + lags).min(axis=1)
        if np.array_equal(lower, lags):
            return lags
        lags = lower
    return None


def _constraints(graph: SignalFlowGraph, required: Mapping[Edge, int]) -> tuple[list[str], Matrix]:
    nodes = list(graph.nodes)
    slacks = ((*edge[:2], graph.registers[edge] - required[edge]) for edge in graph.edges)
    return nodes, slack_matrix(nodes, slacks, HOST)


def feasible_lags(graph: SignalFlowGraph, required: Mapping[Edge, int]) -> dict[str, int] | None:
    """Find a retiming after which every edge has its required registers, or None if no retiming does."""
    nodes, slack = _constraints(graph, required)
    lags = solve(slack)
    if lags is None:
        return None
    origin = lags[nodes.index(HOST[0])]
    return {node: int(lag - origin) for node, lag in zip(nodes, lags, strict=True)}


def lag_ranges(graph: SignalFlowGraph, required: Mapping[Edge, int]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest lag of every node over all retimings with the required registers.

    If the two are equal for all nodes there is one such retiming only. The constraints must be feasible.
    """
    nodes, slack = _constraints(graph, required)
    origin = np.array([0.0 if node == HOST[0] else np.inf for node in nodes])  # shortest paths from the outside
    highest, lowest = solve(slack, origin), solve(slack.T, origin)
    assert highest is not None
    assert lowest is not None
    return {n: (-float(b), float(a)) for n, a, b in zip(nodes, highest, lowest, strict=True)}
