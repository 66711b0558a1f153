"""Certificates that a delay can't be smaller, each found in another way, so that they check each other."""

from __future__ import annotations

from itertools import pairwise

from layerpipe2.theory.constraints import feasible_lags
from layerpipe2.theory.derivation import Derivation
from layerpipe2.theory.graph import SignalFlowGraph
from layerpipe2.theory.leiserson_saxe import clock_period, minimum_period
from layerpipe2.theory.retiming import insert_delayed_gradients


def loop_deficit(derivation: Derivation, operation: str) -> int:
    """Registers that the recorded loop of an operation would lack if its gradient came one update earlier.

    Counted edge by edge on the graph before retiming; retiming keeps the sum. Positive: no pipeline has that delay.
    """
    graph, required = derivation.delayed, derivation.required
    spare = 0
    for u, v in pairwise(derivation.loops[operation]):
        spare += min(graph.registers[u, v, k] - required[u, v, k] for k in graph.topology[u][v])
    return graph.period - spare


def smaller_is_infeasible(derivation: Derivation, operation: str) -> bool:
    """Whether no retiming makes a pipeline if this gradient comes one update earlier and all others as late as can be.

    Solves the whole system of constraints; no loop has to be known for it.
    """
    undelayed, late = derivation.undelayed, 4 * derivation.num_stages * derivation.delayed.period
    ticks = dict.fromkeys(derivation.gradient_delays, late)
    ticks[operation] = (derivation.gradient_delays[operation] - 1) * undelayed.period
    return feasible_lags(insert_delayed_gradients(undelayed, ticks), derivation.required) is None


def task_times(graph: SignalFlowGraph) -> dict[str, float]:
    """One unit for every forward, activation-gradient and weight-gradient task with weights, none for the rest."""
    weighted = set(graph.operations)
    timed = ("forward", "activation gradient", "weight gradient")
    return {n: float(d["kind"] in timed and d["operation"] in weighted) for n, d in graph.nodes.items()}


def periods(derivation: Derivation) -> tuple[float, float, float]:
    """Clock periods in task times: of the derived pipeline, of the best retiming at all, of the last stage alone.

    The best one is Leiserson and Saxe's, free to put registers inside stages. No retiming can be faster than the last
    stage, whose loop has the weight register only.
    """
    graph = derivation.pipeline
    times = task_times(graph)
    last = [n for n, d in graph.nodes.items() if d["stage"] == derivation.num_stages - 1 or n == "loss"]
    found, _ = minimum_period(derivation.delayed.networkx(), times, ("x", "y", "out"))
    circuit = graph.networkx()
    return clock_period(circuit, times), found, clock_period(circuit.subgraph(last), times)


def period_with_delays(derivation: Derivation, delays: dict[str, int]) -> float:
    """Best clock period of any retiming of sequential training with these gradient delays, in task times.

    Boundaries need no registers here and results may come as late as they like: this is what the loops alone allow. A
    chain with one layer per stage has period 2 (a forward and a backward task in series) with delays of S as with
    2 S, and 1 only with 2 S + 1. So LayerPipe2's 2 S buys a register on every boundary, in each direction, and not a
    shorter period than PipeDream's S.
    """
    ticks = {op: delay * derivation.undelayed.period for op, delay in delays.items()}
    circuit = insert_delayed_gradients(derivation.undelayed, ticks)
    return minimum_period(circuit.networkx(), task_times(circuit), ("x", "y"))[0]
