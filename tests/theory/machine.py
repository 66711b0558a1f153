"""A signal-flow graph run as hardware: one value per register, one tick at a time; it knows nothing of delays.

Layers are scalar and linear: F multiplies by the weight, A multiplies the gradient by it, G multiplies gradient and
input, U subtracts the step; sums add. An empty pipeline holds zeros, which make zero gradients, and in the registers
behind the updates the initial weights.
"""

from collections import deque

import networkx as nx

from layerpipe2.theory.graph import SignalFlowGraph


def run(graph: SignalFlowGraph, inputs: list[float], targets: list[float], weights: dict[str, float], rate: float):
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
