"""Fewest registers of any legal retiming, by linear programming and by trying all retimings of a small graph.

A node's output is held in one shift register that all its readers tap, so node u costs
``m(u) = max over its edges of w_r(e)`` registers. With ``y(u) = m(u) + r(u)`` all constraints are differences,
``y(u) >= w(e) + r(v)``, so the linear program is the dual of a minimum-cost flow and has an integral optimum
(Leiserson & Saxe 1991, section 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from layerpipe2.errors import UserError
from layerpipe2.theory.graph import HOST, Edge, SignalFlowGraph


def held_registers(graph: SignalFlowGraph) -> dict[str, int]:
    """Length of the shift register behind every node: the largest count on its outgoing edges."""
    held = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:
        held[edge[0]] = max(held[edge[0]], graph.registers[edge])
    return held


def fewest_registers(
    graph: SignalFlowGraph, required: Mapping[Edge, int], sizes: Mapping[str, float] | None = None
) -> float:
    """Smallest sum of shift register lengths over all retimings that leave the required registers.

    Args:
        graph: any graph of the derivation, usually with delayed gradients and before retiming.
        required: registers that must be left on every edge.
        sizes: size of the value that a node sends, if registers shall be weighed by it; otherwise all are 1.

    Raises:
        UserError: if no retiming leaves the required registers.
    """
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    count = len(nodes)
    size = np.array([1.0 if sizes is None else float(sizes[node]) for node in nodes])
    rows: list[tuple[int, int, int, float]] = []  # r or y with +1, r or y with -1, bound
    for edge in graph.edges:
        u, v = place[edge[0]], place[edge[1]]
        rows.append((len(rows), u, v, graph.registers[edge] - required[edge]))  # r(u) - r(v) <= w - required
        rows.append((len(rows), v, count + u, -graph.registers[edge]))  # r(v) - y(u) <= -w
    rows += [(len(rows) + i, i, count + i, 0.0) for i in range(count)]  # m(u) >= 0 for nodes that nobody reads
    index = np.array([row[0] for row in rows])
    data = np.ones(len(rows))
    plus = coo_array((data, (index, [row[1] for row in rows])), shape=(len(rows), 2 * count))
    minus = coo_array((data, (index, [row[2] for row in rows])), shape=(len(rows), 2 * count))
    bounds = [(0, 0) if node in HOST else (None, None) for node in nodes] + [(None, None)] * count
    found = linprog(
        np.concatenate([-size, size]), A_ub=(plus - minus).tocsr(), b_ub=[row[3] for row in rows], bounds=bounds
    )
    if not found.success:
        raise UserError("no retiming leaves the required registers on every edge; delay the gradients more")
    return float(found.fun)


def all_retimings(graph: SignalFlowGraph, required: Mapping[Edge, int], reach: int) -> Iterator[dict[str, int]]:
    """Every retiming with lags between -reach and reach that leaves the required registers, by exhaustive search.

    For small graphs. Nodes are given lags in the order of a search from the outside nodes, so that wrong branches
    end early.
    """
    checks: dict[str, list[tuple[str, int, int]]] = {node: [] for node in graph.nodes}
    for edge in graph.edges:
        u, v, spare = edge[0], edge[1], graph.registers[edge] - required[edge]
        checks[u].append((v, 1, spare))  # r(u) - r(v) <= spare
        checks[v].append((u, -1, spare))
    order = list(HOST)
    for node in order:
        order += [other for other, _, _ in checks[node] if other not in order]
    pending: list[dict[str, int]] = [{}]
    while pending:
        lags = pending.pop()
        if len(lags) == len(order):
            yield lags
            continue
        node = order[len(lags)]
        for lag in [0] if node in HOST else range(-reach, reach + 1):
            trial = {**lags, node: lag}
            if all(sign * (lag - trial[v]) <= spare for v, sign, spare in checks[node] if v in trial):
                pending.append(trial)
