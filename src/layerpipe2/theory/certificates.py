"""Certificates that no delay can be smaller, no period shorter, and no registers fewer.

Two for the delays, found in different ways, so that they check each other.

Registers: a node's output is kept in one shift register that all its readers tap, so node u costs
``m(u) = max over its edges of w_r(e)`` registers. With ``y(u) = m(u) + r(u)`` all constraints are differences,
``y(u) >= w(e) + r(v)``, so the linear program is the dual of a minimum-cost flow and has an integral optimum
(Leiserson & Saxe 1991, section 8).
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from layerpipe2.errors import UserError
from layerpipe2.theory.constraints import feasible_lags
from layerpipe2.theory.derivation import Derivation
from layerpipe2.theory.graph import HOST, Edge, SignalFlowGraph
from layerpipe2.theory.leiserson_saxe import clock_period, minimum_period
from layerpipe2.theory.moves import insert_delayed_gradients


def loop_deficit(derivation: Derivation, operation: str) -> int:
    """Count the registers that an operation's recorded loop would lack if its gradient came one update earlier.

    Counted edge by edge on the graph before retiming; retiming keeps the sum. Positive: no pipeline has that delay.
    """
    graph, required = derivation.delayed, derivation.required
    spare = 0
    for u, v in pairwise(derivation.loops[operation]):
        spare += min(graph.registers[u, v, k] - required[u, v, k] for k in graph.topology[u][v])
    return graph.period - spare


def smaller_is_infeasible(derivation: Derivation, operation: str) -> bool:
    """Say whether no retiming makes a pipeline if this gradient comes an update earlier, and others ever so late.

    Solves the whole system of constraints; no loop has to be known for it.
    """
    undelayed, late = derivation.undelayed, 4 * derivation.num_stages * derivation.delayed.period
    ticks = dict.fromkeys(derivation.gradient_delays, late)
    ticks[operation] = (derivation.gradient_delays[operation] - 1) * undelayed.period
    return feasible_lags(insert_delayed_gradients(undelayed, ticks), derivation.required) is None


def task_times(graph: SignalFlowGraph) -> dict[str, float]:
    """Give one unit of time to every forward and gradient task with weights, none to the rest."""
    weighted = set(graph.operations)
    timed = ("forward", "activation gradient", "weight gradient")
    return {n: float(d["kind"] in timed and d["operation"] in weighted) for n, d in graph.nodes.items()}


def periods(derivation: Derivation) -> tuple[float, float, float]:
    """Return clock periods in task times: of the derived pipeline, the best retiming at all, the last stage alone.

    The best one is Leiserson and Saxe's, free to put registers inside stages. No retiming can be faster than the last
    stage, whose loop has the weight register only.
    """
    graph = derivation.pipeline
    times = task_times(graph)
    last = [n for n, d in graph.nodes.items() if d["stage"] == derivation.num_stages - 1 or n == "loss"]
    found, _ = minimum_period(derivation.delayed.networkx(), times, ("x", "y", "out"))
    circuit = graph.networkx()
    return clock_period(circuit, times), found, clock_period(circuit.subgraph(last), times)


def shift_registers(graph: SignalFlowGraph) -> dict[str, int]:
    """Return the length of the shift register behind every node: the largest count on its outgoing edges."""
    behind = {n: [graph.registers[edge] for edge in graph.topology.out_edges(n, keys=True)] for n in graph.nodes}
    return {node: max(counts, default=0) for node, counts in behind.items()}


def fewest_registers(graph: SignalFlowGraph, required: Mapping[Edge, int]) -> float:
    """Return the least sum of shift register lengths over all retimings that leave the required registers.

    Args:
        graph: any graph of the derivation, usually with delayed gradients and before retiming.
        required: registers that must be left on every edge.

    Raises:
        UserError: if no retiming leaves the required registers.
    """
    nodes = list(graph.nodes)
    place, count = {node: i for i, node in enumerate(nodes)}, len(nodes)
    rows: list[tuple[int, int, int]] = []  # column of r or y with +1, column with -1, upper bound
    for edge in graph.edges:
        u, v, registers = place[edge[0]], place[edge[1]], graph.registers[edge]
        rows.append((u, v, registers - required[edge]))  # r(u) - r(v) <= w - required
        rows.append((v, count + u, -registers))  # r(v) - y(u) <= -w
    rows += [(i, count + i, 0) for i in range(count)]  # m(u) >= 0 for nodes that nobody reads
    plus, minus, upper = np.array(rows).T
    ones, line = np.ones(len(rows)), np.arange(len(rows))
    entries = (np.r_[ones, -ones], (np.r_[line, line], np.r_[plus, minus]))
    matrix = coo_array(entries, shape=(len(rows), 2 * count)).tocsr()
    cost = np.repeat([-1.0, 1.0], count)  # the sum of m = y - r
    bounds = [(0, 0) if node in HOST else (None, None) for node in nodes] + [(None, None)] * count
    found = linprog(cost, A_ub=matrix, b_ub=upper, bounds=bounds)
    if not found.success:
        raise UserError("no retiming leaves the required registers on every edge; delay the gradients more")
    return float(found.fun)
