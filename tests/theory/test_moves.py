"""Moves on signal-flow graphs: what is legal works, what is not is refused with the edge or node named."""

import random
from itertools import chain as chained
from itertools import combinations

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.networks import outline
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.graph import SignalFlowGraph, training_graph
from layerpipe2.theory.moves import (
    FEED_FORWARD,
    feedforward_cutset,
    insert_at_cutset,
    insert_delayed_gradients,
    lags_between,
    loop_through,
    places,
    retime,
)
from layerpipe2.theory.network import LayeredNetwork, Operation, chain, from_units, layered


@pytest.fixture
def graph():
    return training_graph(chain(3), (0, 1, 2))


def test_graph_of_a_chain_has_the_nodes_and_edges_of_training(graph):
    assert len(graph.nodes) == 4 * 3 + 4
    assert {e[:2] for e in graph.of_kind("activation")} == {("x", "F0"), ("F0", "F1"), ("F1", "F2"), ("F2", "loss")}
    assert {e[:2] for e in graph.of_kind("error")} == {("A1", "G0"), ("A2", "G1"), ("loss", "G2")}
    assert {e[:2] for e in graph.of_kind("operand")} == {("x", "G0"), ("F0", "G1"), ("F1", "G2")}
    assert {e for e in graph.edges if graph.registers[e]} == {e for e in graph.edges if e[0].startswith("U")}


def test_graph_of_a_residual_block_sums_gradients_where_the_forward_pass_forks():
    graph = training_graph(from_units(["layer", "block", "layer"]), (0, 0, 1))
    assert {e[0] for e in graph.of_kind("gradient") if e[1] == "A0"} == {"A1.conv1", "A1.add"}
    assert {e[0] for e in graph.of_kind("error") if e[1] == "G0"} == {"A1.conv1", "A1.add"}
    assert {e[0] for e in graph.of_kind("activation") if e[1] == "F1.add"} == {"F1.conv2", "F0"}
    assert "U1.add" not in graph.nodes
    resnet = layered(outline("resnet18"))
    assert len(resnet.operations) == 2 + 8 * 3 + 3
    assert resnet.num_units == 10


def test_feed_forward_edges_are_those_of_all_feed_forward_cutsets():
    graph = training_graph(chain(1), (0,))
    nodes = list(graph.nodes)
    free = set()
    for side in chained.from_iterable(combinations(nodes, size) for size in range(1, len(nodes))):
        crossing = [e for e in graph.edges if (e[0] in side) != (e[1] in side)]
        if all(e[0] in side for e in crossing):
            assert feedforward_cutset(graph, side) == crossing
            free.update(crossing)
    assert {edge for edge, place in places(graph).items() if place == FEED_FORWARD} == free
    assert all(bool(loop_through(graph, edge)) == (edge not in free) for edge in graph.edges)
    assert loop_through(graph, ("U0", "U0", "state")) == ["U0", "U0"]


SLOWED = training_graph(chain(2), (0, 1), period=2)


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda g: feedforward_cutset(g, {"x", "y", "F0", "U0"}), r"edge G0 -> U0 \(step\) leads back"),
        (lambda g: insert_at_cutset(g, {"x", "y", "F0"}, 1), "not feed-forward: edge U0 -> F0"),
        (lambda g: insert_at_cutset(g, ("x", "y"), -1), "insertion of -1 registers"),
        (lambda g: insert_at_cutset(g, ("x", "F9"), 1), "unknown node 'F9'"),
        (lambda g: insert_at_cutset(g, (), 1), "all nodes on one side"),
        (lambda g: insert_delayed_gradients(SLOWED, {"0": 3}), r"G0 -> U0 \(step\) is given 3 registers"),
        (lambda g: insert_delayed_gradients(SLOWED, {"7": 2}), "'7' has no gradient -> update edge"),
        (lambda g: retime(g, {"G0": 1}), r"edge G0 -> U0 \(step\) with -1 registers"),
        (lambda g: retime(g, {"x": 1}), "outside node 'x'"),
        (lambda g: retime(g, {"Q": 1}), "unknown node 'Q'"),
        (lambda g: lags_between(g, g.with_registers({("F0", "F1", "activation"): 1})), "changes the delay of a loop"),
        # Data and targets would no longer belong together.
        (lambda g: lags_between(g, g.with_registers({("x", "F0", "activation"): 1})), "loop or an input-output path"),
        (lambda g: g.with_registers({("F0", "F7", "activation"): 1}), r"no edge F0 -> F7 \(activation\)"),
        (lambda g: g.with_registers({("F0", "F1", "activation"): -1}), r"on edge F0 -> F1 \(activation\) is -1"),
        (lambda g: SignalFlowGraph(g.topology, {}), r"edge x -> F0 \(activation\) has no register count"),
        (lambda g: from_units(["layer", "lstm"]), "unit 1 is of unknown kind 'lstm'"),
        (lambda g: chain(0), "number of layers is 0"),
    ],
)
def test_illegal_moves_are_refused_by_name(graph, move, message):
    with pytest.raises(UserError, match=message):
        move(graph)


def test_retiming_along_a_cutset_undoes_itself():
    rng, moved = random.Random(0), 0
    graph = derive(4).delayed
    for _ in range(200):
        nodes = rng.sample(["G0", "G1", "G2", "F0", "F1", "U0", "U1", "A1"], rng.randint(1, 5))
        count = rng.choice([-2, -1, 1, 2])
        try:
            after = retime(graph, dict.fromkeys(nodes, count))
        except UserError:
            continue
        moved += 1
        assert retime(after, dict.fromkeys(nodes, -count)).registers == graph.registers
        assert {n: lag for n, lag in lags_between(graph, after).items() if lag} == dict.fromkeys(nodes, count)
    assert moved > 10


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([Operation("a", 0, ("b",)), Operation("b", 0, ("a",))], r"forward graph is cyclic: .*remove the edge"),
        ([Operation("a", 0, ("x",)), Operation("a", 0, ("x",))], "two nodes named 'a'"),
        ([Operation("a", 0, ("q",))], "edge q -> a starts at an unknown node 'q'"),
        ([Operation("a", 0, ())], "node 'a' reads nothing"),
        ([Operation("a", 1, ("x",)), Operation("b", 0, ("a",))], "edge a -> b leads from unit 1 back to unit 0"),
        ([Operation("a", 0, ("x",)), Operation("b", 2, ("a",))], "unit 1 has no operations"),
        ([Operation("a", 0, ("x",)), Operation("b", 0, ("x",))], "outputs a, b"),
        ([], "no operations"),
    ],
)
def test_bad_networks_are_refused_by_name(operations, message):
    with pytest.raises(UserError, match=message):
        LayeredNetwork(tuple(operations))
