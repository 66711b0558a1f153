"""``layerpipe2 derive``: where delays may go, the steps, the proofs; graphs as tables, DOT, JSON and GraphML."""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import networkx as nx

from layerpipe2.cli.console import terminal_width, wrapped
from layerpipe2.delays import aligned
from layerpipe2.errors import UserError, look_up
from layerpipe2.theory.derivation import Derivation, Step, derive
from layerpipe2.theory.graph import KINDS, TASKS, SignalFlowGraph
from layerpipe2.theory.moves import DELAYED_GRADIENT, FEED_FORWARD, LOOP, places
from layerpipe2.theory.network import LayeredNetwork, chain
from layerpipe2.theory.proofs import prove

_LAYERS = 4
_PLACES = {
    FEED_FORWARD: "take registers with a feed-forward cutset",
    DELAYED_GRADIENT: "take a delayed gradient",
    LOOP: "lie on a loop and take registers by retiming only",
}

_COLUMNS = {
    "step": "G -> U",
    "weight": "U -> F",
    "history": "U -> A",
    "activation": "into F",
    "gradient": "out of A",
    "kept": "F -> A",
    "operand": "into G",
}
"""Kind of edge that has a column -> which edges of an operation are counted there: those of the first task named."""


def run(options: argparse.Namespace, network: LayeredNetwork | None = None) -> None:
    """Derive the pipeline of a network, or of a chain of layers; print steps and proofs, or one step's graph.

    Raises:
        UserError: on bad settings, an unknown step or format, or a file that can't be written.
    """
    network = network or chain(options.layers or _LAYERS)
    derivation = derive(network, group_size=options.group_size, groups=options.groups, convention=options.convention)
    text = _one_step(derivation, options) if options.step or options.export else explain(derivation)
    if options.out is not None:  # not wrapped: no reader's terminal is known
        Path(options.out).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        print(f"written: {options.out}")
    else:
        print(text.rstrip("\n") if options.export else wrapped(text, terminal_width()))


def _one_step(derivation: Derivation, options: argparse.Namespace) -> str:
    """Return the chosen step or the last one, as a table or in the format of ``--export``."""
    known = {step.number: step for step in derivation.steps}
    number = derivation.steps[-1].number if options.step is None else options.step
    if number not in known:
        raise UserError(f"--step is '{number}'; this derivation has the steps {', '.join(known)}")
    step = known[number]
    if options.export:
        return look_up(FORMATS, options.export, "graph format")(step.graph)
    return f"{described(step)}\n\n{legend()}"


def explain(derivation: Derivation) -> str:
    """Show places, steps and proofs of a derivation; of the rounds of step 4 the first and the last."""
    law, steps = derivation.law, derivation.steps
    head = f"{law.name}: {law.description}\nunits per stage: {', '.join(map(str, derivation.sizes))}"
    kinds = Counter(places(derivation.pipeline).values())
    legal = "edges: " + ", ".join(f"{kinds[kind]} {text}" for kind, text in _PLACES.items())
    tables = [described(step) for step in steps if "." not in step.number or step is steps[-1]]
    claims = "\n".join(str(claim) for claim in prove(derivation))
    return "\n\n".join([head, legal, legend(), *tables, f"proofs\n{claims}"])


def described(step: Step) -> str:
    """Show one step of a derivation: its title and its register counts by operation."""
    return f"step {step.number}: {step.title}\n{step_table(step.graph)}"


def legend() -> str:
    """Say what the columns of :func:`step_table` are, in one line."""
    columns = ", ".join(f"{kind} {edges}" for kind, edges in _COLUMNS.items())
    return f"columns count registers: {columns} ({', '.join(f'{letter} {task}' for letter, task in TASKS.items())})"


def step_table(graph: SignalFlowGraph) -> str:
    """Count registers by operation: on its own edges, on those that bring its input and take its gradient away.

    Operations side by side with the same counts in the same stage share a line; ``1/3`` are two edges that differ.
    """
    rows: list[list[str]] = []
    for data in graph.nodes.values():
        if data["kind"] == "forward":
            name = data["operation"]
            row = [str(data["stage"]), name, name, *(_counts(graph, name, kind) for kind in _COLUMNS)]
            if rows and rows[-1][0] == row[0] and rows[-1][3:] == row[3:]:
                rows[-1][2] = name
            else:
                rows.append(row)
    found = [[stage, a if a == b else f"{a} .. {b}", *counts] for stage, a, b, *counts in rows]
    around = [f"{u}->{v} {graph.registers[u, v, k]}" for u, v, k in graph.edges if "loss" in (u, v) or k == "output"]
    head = ["stage", "operation", *_COLUMNS]
    return "\n".join([*aligned([head, *found]), ", ".join(around)])


def edge_table(graph: SignalFlowGraph) -> str:
    """List every edge with its registers, by kind."""
    rows = [["from", "to", "kind", "registers"]]
    order = list(KINDS)
    for u, v, kind in sorted(graph.edges, key=lambda edge: order.index(edge[2])):
        rows.append([u, v, kind, str(graph.registers[u, v, kind])])
    return "\n".join(aligned(rows))


def dot(graph: SignalFlowGraph) -> str:
    """Write the graph in Graphviz's language; edges are labelled with their registers (``2D``)."""
    lines = ["digraph training {", "  rankdir=LR;", "  node [shape=circle];"]
    lines += [f'  "{node}" [label="{node}", group="{data["stage"]}"];' for node, data in graph.nodes.items()]
    for u, v, kind in graph.edges:
        count = graph.registers[u, v, kind]
        lines.append(f'  "{u}" -> "{v}" [kind="{kind}", label="{f"{count}D" if count else ""}"];')
    return "\n".join([*lines, "}", ""])


def as_json(graph: SignalFlowGraph) -> str:
    """Write nodes and edges as JSON; the same graph gives the same text."""
    nodes = [{"name": node, **data} for node, data in graph.nodes.items()]
    edges = [{"source": u, "target": v, "kind": k, "registers": graph.registers[u, v, k]} for u, v, k in graph.edges]
    return json.dumps({"period": graph.period, "nodes": nodes, "edges": edges}, indent=1) + "\n"


def graphml(graph: SignalFlowGraph) -> str:
    """Write the graph as GraphML, for yEd, Gephi and networkx."""
    return "\n".join(nx.generate_graphml(graph.networkx())) + "\n"


FORMATS: dict[str, Callable[[SignalFlowGraph], str]] = {
    "table": step_table,
    "edges": edge_table,
    "dot": dot,
    "json": as_json,
    "graphml": graphml,
}
"""Name of a format -> function that writes a graph in it."""


def _counts(graph: SignalFlowGraph, operation: str, kind: str) -> str:
    """Count registers on an operation's edges of one kind: incoming ones, outgoing ones for weights and gradient."""
    counted = _COLUMNS[kind]
    node = f"{next(filter(str.isupper, counted))}{operation}"
    if node not in graph.nodes:
        return "-"
    edges = graph.topology.in_edges if counted.startswith("into") else graph.topology.out_edges
    wanted = (kind, "output") if kind == "gradient" else (kind,)
    found = {graph.registers[edge] for edge in edges(node, keys=True) if edge[2] in wanted}
    return "/".join(map(str, sorted(found))) or "-"
