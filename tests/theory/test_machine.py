"""The derived graphs, run as machines, train as the engine does: the theory and the code are about the same thing.

A graph is run as hardware: one value per register, one tick at a time; the machine knows nothing of delays. Layers are
scalar and linear: F multiplies by the weight, A multiplies the gradient by it, G multiplies gradient and input, U
subtracts the step; sums add. An empty pipeline holds zeros, which make zero gradients, and in the registers behind the
updates the initial weights.
"""

from collections import deque

import networkx as nx
import pytest
import torch

from layerpipe2 import make_strategy
from layerpipe2.delays import Delays
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.stages import partition_at
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.moves import lags_between
from layerpipe2.theory.network import from_units
from layerpipe2.theory.stability_simulation import Scales

INPUTS = [1.0, 0.7, -0.4, 0.9, 1.1, -0.8, 0.5, 0.3, 1.2, -0.6, 0.8, 1.0, -1.1, 0.2, 0.6, 0.9, 0.4, -0.3, 0.7, 0.5]
TARGETS = [0.9 * x + 0.1 for x in INPUTS]
RATE = 0.07


def run(graph, inputs, targets, weights, rate):
    """Outputs of all update nodes by tick; between two mini-batches of a slowed graph the machine is fed nothing."""
    lines = {}
    for edge in graph.edges:
        start = weights[edge[0][1:]] if edge[0].startswith("U") else 0.0
        lines[edge] = deque([start] * graph.registers[edge])
    bare = nx.DiGraph([edge[:2] for edge in graph.edges if graph.registers[edge] == 0])
    bare.add_nodes_from(graph.nodes)
    order = list(nx.topological_sort(bare))
    trace: dict[str, list[float]] = {f"U{op}": [] for op in graph.operations}
    for tick in range(len(inputs) * graph.period):
        values: dict[str, float] = {}
        fed = tick % graph.period == 0
        batch = tick // graph.period
        for node in order:
            read = {}
            for u, _, kind in graph.topology.in_edges(node, keys=True):
                line = lines[u, node, kind]
                read.setdefault(kind, []).append(line[0] if line else values[u])
            values[node] = _task(node, read, (inputs[batch], targets[batch]) if fed else (0.0, 0.0), rate)
        for (u, _, _), line in ((e, lines[e]) for e in graph.edges):
            if line:
                line.popleft()
                line.append(values[u])
        for node, seen in trace.items():
            seen.append(values[node])
    return trace


def _task(node, read, fed, rate):
    letter = node[0]
    if node in ("x", "y", "out"):
        return fed[0] if node == "x" else fed[1]
    if node == "loss":
        return read["activation"][0] - read["target"][0]
    if letter == "F":
        return read.get("weight", [1.0])[0] * sum(read["activation"])
    if letter == "A":
        return read.get("history", [1.0])[0] * sum(read["gradient"])
    if letter == "G":
        return sum(read["error"]) * sum(read["operand"])
    return read["state"][0] - rate * read["step"][0]


def start(network):
    return {op.name: 0.6 + 0.1 * i for i, op in enumerate(network.ordered) if op.weighted}


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream", "none"])
@pytest.mark.parametrize("groups", [[1, 1, 1, 1], [2, 2], [1, 2, 1], [4]])
def test_machine_equals_engine(convention, groups):
    derivation = derive(4, groups=groups, convention=convention)
    delays = Delays.by_law(convention, len(groups))
    weights = start(derivation.network)
    units = [Scales(torch.tensor([w], dtype=torch.float64)) for w in weights.values()]
    starts = [sum(groups[:k]) for k in range(len(groups))]
    stages = partition_at(units, starts)
    engine = PipelineEngine(stages, delays, make_strategy("stash"))
    optimizer = torch.optim.SGD([u.weight for u in units], lr=RATE)
    graph, period, n = derivation.pipeline, derivation.pipeline.period, len(groups) - 1
    lags = lags_between(derivation.delayed, graph)
    trace = run(graph, INPUTS, TARGETS, weights, RATE)
    for t, (x, y) in enumerate(zip(INPUTS, TARGETS, strict=True)):
        pair = (torch.tensor([[v]], dtype=torch.float64) for v in (x, y))
        engine.train_step(*pair, lambda a, b: 0.5 * ((a - b) ** 2).sum(), optimizer)
        for op, unit in zip(weights, units, strict=True):
            tick = period * (t + derivation.gradient_delays[op]) + n + lags[f"U{op}"]
            if tick < len(trace[f"U{op}"]):
                assert trace[f"U{op}"][tick] == pytest.approx(unit.weight.item(), abs=1e-13), (t, op)
    assert unit.weight.item() != pytest.approx(weights[op], abs=1e-3)


NETWORKS = {
    "chain": ["layer"] * 5,
    "projection": ["layer", "block", "projection", "layer"],
    "blocks": ["layer", "block", "block", "layer"],
}


@pytest.mark.parametrize("kinds", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
def test_every_retiming_step_computes_the_same(kinds, convention):
    network = from_units(kinds)
    derivation = derive(network, convention=convention)
    before = run(derivation.delayed, INPUTS, TARGETS, start(network), RATE)
    late = next(i for i, step in enumerate(derivation.steps) if step.number == "2")
    assert len(derivation.steps) > late + 1
    for step in derivation.steps[late + 1 :]:
        lags = lags_between(derivation.delayed, step.graph)
        after = run(step.graph, INPUTS, TARGETS, start(network), RATE)
        for node, values in before.items():
            lag = lags[node]
            a, b = (values[: len(values) - lag], after[node][lag:]) if lag >= 0 else (values[-lag:], after[node][:lag])
            assert b == pytest.approx(a, abs=1e-13)
    for node, values in before.items():
        assert max(abs(value - start(network)[node[1:]]) for value in values) > 1e-4
