"""Minimality by two ways, and Leiserson and Saxe's algorithm against the textbook and against brute force."""

import itertools
import random

import networkx as nx
import pytest

from layerpipe2.errors import UserError
from layerpipe2.theory.certificates import fewest_registers, shift_registers, smaller_is_infeasible
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.graph import HOST
from layerpipe2.theory.leiserson_saxe import clock_period, minimum_period
from layerpipe2.theory.moves import insert_delayed_gradients, lags_between, retime


def all_retimings(graph, required, reach):
    """Every retiming with lags between -reach and reach that leaves the required registers, by exhaustive search.

    Nodes are given lags in the order of a search from the outside nodes, so that wrong branches end early.
    """
    checks = {node: [] for node in graph.nodes}
    for edge in graph.edges:
        u, v, spare = edge[0], edge[1], graph.registers[edge] - required[edge]
        checks[u].append((v, 1, spare))  # r(u) - r(v) <= spare
        checks[v].append((u, -1, spare))
    order = list(HOST)
    for node in order:
        order += [other for other, _, _ in checks[node] if other not in order]
    pending = [{}]
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


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
@pytest.mark.parametrize("groups", [[1], [2], [1, 1], [1, 2], [1, 1, 1]])
def test_exhaustive_search_finds_the_derived_retiming_only(groups, convention):
    derivation = derive(sum(groups), groups=groups, convention=convention)
    found = list(all_retimings(derivation.delayed, derivation.required, reach=3))
    assert found == [{node: lags_between(derivation.delayed, derivation.pipeline)[node] for node in found[0]}]
    for operation, delay in derivation.gradient_delays.items():
        if delay:
            assert smaller_is_infeasible(derivation, operation)
            delays = {op: d - (op == operation) for op, d in derivation.gradient_delays.items()}
            ticks = {op: d * derivation.pipeline.period for op, d in delays.items()}
            less = insert_delayed_gradients(derivation.undelayed, ticks)
            assert not list(all_retimings(less, derivation.required, reach=3))


def test_linear_program_equals_exhaustive_search_where_there_is_a_choice():
    derivation = derive(2)
    loose = insert_delayed_gradients(derivation.delayed, {"0": 1, "1": 1})
    found = list(all_retimings(loose, derivation.required, reach=4))
    assert len(found) > 1
    best = min(sum(shift_registers(retime(loose, {n: r for n, r in lags.items() if r})).values()) for lags in found)
    assert fewest_registers(loose, derivation.required) == pytest.approx(best)
    with pytest.raises(UserError, match="no retiming leaves the required registers"):
        fewest_registers(derivation.undelayed, derivation.required)


def correlator():
    """Leiserson and Saxe's own example: a digital correlator, period 24, after retiming 13."""
    delays = [("h", "d1"), ("d1", "d2"), ("d2", "d3"), ("d3", "d4")]
    wires = [("d4", "a3"), ("d3", "a3"), ("a3", "a2"), ("d2", "a2"), ("a2", "a1"), ("d1", "a1"), ("a1", "h")]
    edges = [(*edge, 1) for edge in delays] + [(*edge, 0) for edge in wires]
    circuit = nx.MultiDiGraph()
    circuit.add_edges_from((u, v, {"registers": w}) for u, v, w in edges)
    return circuit, {"h": 0, **dict.fromkeys(("d1", "d2", "d3", "d4"), 3), **dict.fromkeys(("a1", "a2", "a3"), 7)}


def period_after(circuit, times, lags):
    moved = nx.MultiDiGraph()
    moved.add_edges_from((u, v, {"registers": w + lags[v] - lags[u]}) for u, v, w in circuit.edges(data="registers"))
    legal = all(w >= 0 for *_, w in moved.edges(data="registers"))
    return clock_period(moved, times) if legal else float("inf")


def test_correlator_of_the_original_paper():
    circuit, times = correlator()
    assert clock_period(circuit, times) == 24
    period, lags = minimum_period(circuit, times, ("h",))
    assert period == 13 == period_after(circuit, times, lags)
    assert lags["h"] == 0


def test_minimum_period_equals_brute_force():
    rng = random.Random(3)
    for _ in range(25):
        nodes = "abcd"
        circuit = nx.MultiDiGraph()
        ring = [(nodes[i], nodes[(i + 1) % 4], {"registers": rng.randint(0, 2)}) for i in range(4)]
        circuit.add_edges_from(ring)
        circuit.add_edges_from((*rng.sample(nodes, 2), {"registers": rng.randint(1, 3)}) for _ in range(3))
        circuit.add_edge("d", "a", registers=1)
        circuit.edges["d", "a", 0]["registers"] = max(1, circuit.edges["d", "a", 0]["registers"])
        times = {node: rng.randint(0, 6) for node in nodes}
        period, lags = minimum_period(circuit, times)
        every = itertools.product(range(-3, 4), repeat=3)
        best = min(period_after(circuit, times, dict(zip(nodes, (0, *r), strict=True))) for r in every)
        assert period == best == period_after(circuit, times, lags)


def test_a_loop_without_registers_is_named():
    circuit = nx.MultiDiGraph()
    circuit.add_edges_from([("a", "b", {"registers": 0}), ("b", "a", {"registers": 0})])
    with pytest.raises(UserError, match="loop without registers"):
        minimum_period(circuit, {"a": 1, "b": 1})
