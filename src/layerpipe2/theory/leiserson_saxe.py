"""Minimum-period retiming of any synchronous circuit (Leiserson & Saxe, Retiming synchronous circuitry, 1991).

Kept apart from the derivation's graphs and moves, so that it can check them from outside. ``W(u, v)`` is the smallest
number of registers on a path from u to v, and ``D(u, v)`` the largest computing time of such a path (section 4). A
retiming with clock period ``c`` exists iff ``r(u) - r(v) <= w(e)`` for all edges and ``r(u) - r(v) <= W(u, v) - 1``
wherever ``D(u, v) > c`` (theorem 7); the smallest ``c`` is an element of ``D`` (algorithm OPT1).
"""

from collections.abc import Collection, Mapping

import networkx as nx
import numpy as np

from layerpipe2.errors import UserError
from layerpipe2.theory.constraints import Matrix, slack_matrix, solve


def clock_period(circuit: nx.MultiDiGraph, times: Mapping[str, float]) -> float:
    """Return the largest computing time of a path without registers, in the unit of ``times``.

    Args:
        circuit: edges with the attribute ``registers``.
        times: computing time >= 0 of every node.

    Raises:
        UserError: naming an edge of a loop without registers.
    """
    bare, start = nx.DiGraph(), object()
    bare.add_edges_from((start, node, {"time": times[node]}) for node in circuit)
    bare.add_edges_from((u, v, {"time": times[v]}) for u, v, count in circuit.edges(data="registers") if count == 0)
    try:
        return float(nx.dag_longest_path_length(bare, "time"))
    except nx.NetworkXUnfeasible:
        u, v = nx.find_cycle(bare)[0]
        raise UserError(f"edge {u} -> {v} lies on a loop without registers; every loop needs at least one") from None


def path_matrices(circuit: nx.MultiDiGraph, times: Mapping[str, float]) -> tuple[list[str], Matrix, Matrix]:
    """Return nodes, ``W`` and ``D`` (infinite and 0 where there is no path), from all-pairs shortest paths.

    Path lengths are compared by registers first and by computing time, longest first, second: one number
    ``w M - t(u)`` per edge does both if M exceeds the sum of all times.
    """
    nodes = list(circuit)
    place = {node: i for i, node in enumerate(nodes)}
    time = np.array([float(times[node]) for node in nodes])
    scale = float(time.sum()) + 1.0
    far = np.full((len(nodes), len(nodes)), np.inf)
    for u, v, count in circuit.edges(data="registers"):
        i, j = place[u], place[v]
        far[i, j] = min(far[i, j], count * scale - time[i])
    np.fill_diagonal(far, np.minimum(far.diagonal(), 0.0))
    for k in range(len(nodes)):  # Floyd-Warshall
        np.minimum(far, far[:, k, None] + far[k], out=far)
    registers = np.ceil(far / scale - 1e-9)
    with np.errstate(invalid="ignore"):
        longest: Matrix = np.where(np.isfinite(far), registers * scale - far + time, 0.0)
    return nodes, registers, np.round(longest, 9)


def minimum_period(
    circuit: nx.MultiDiGraph, times: Mapping[str, float], fixed: Collection[str] = ()
) -> tuple[float, dict[str, int]]:
    """Find the smallest clock period that retiming can reach, and lags that reach it.

    Args:
        circuit: edges with the attribute ``registers``.
        times: computing time >= 0 of every node.
        fixed: nodes that keep their time relative to each other (the outside world).

    Raises:
        UserError: naming an edge of a loop without registers.
    """
    clock_period(circuit, times)
    nodes, registers, longest = path_matrices(circuit, times)
    slack = slack_matrix(nodes, circuit.edges(data="registers"), fixed)
    candidates = np.unique(longest[np.isfinite(registers)])
    low, high = 0, len(candidates) - 1
    best = solve(np.where(longest > candidates[high], np.minimum(slack, registers - 1), slack))
    while low < high:
        middle = (low + high) // 2
        lags = solve(np.where(longest > candidates[middle], np.minimum(slack, registers - 1), slack))
        if lags is None:
            low = middle + 1
        else:
            high, best = middle, lags
    if best is None:
        raise UserError("circuit has a loop with a negative number of registers; give every edge a count >= 0")
    origin = best[nodes.index(next(iter(fixed)))] if fixed else 0.0
    return float(candidates[high]), {node: int(lag - origin) for node, lag in zip(nodes, best, strict=True)}
