"""Moves on signal-flow graphs: what is legal works, what is not is refused with the edge or node named."""

import random
from itertools import chain as chained
from itertools import combinations

import pytest

from layerpipe2.errors import UserError
from layerpipe2.theory import LayeredNetwork, Operation, chain, derive, from_units, resnet
from layerpipe2.theory.cutsets import (
    DELAYED_GRADIENT,
    FEED_FORWARD,
    LOOP,
    cutset_through,
    feedforward_cutset,
    feedforward_cutsets,
    loop_through,
    places,
)
from layerpipe2.theory.graph import SignalFlowGraph, training_graph
from layerpipe2.theory.retiming import (
    IllegalMove,
    insert_at_cutset,
    insert_delayed_gradients,
    insert_registers,
    lags_between,
    retime,
    retime_cutset,
)


@pytest.fixture
def graph() -> SignalFlowGraph:
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
    assert len(resnet().operations) == 2 + 8 * 3 + 3
    assert resnet().num_units == 10


def test_places_where_delays_may_go(graph):
    found = places(graph)
    assert {e for e, place in found.items() if place == DELAYED_GRADIENT} == set(graph.of_kind("step"))
    free = {e for e, place in found.items() if place == FEED_FORWARD}
    outside = {e for e in graph.edges if e[0] in "xy" or e[1] == "out"}
    assert free == outside | {e for e in graph.edges if e[1] == "A0"}  # nobody in the loops reads A0
    assert set(found.values()) == {FEED_FORWARD, DELAYED_GRADIENT, LOOP}


@pytest.mark.parametrize("network", [chain(1), from_units(["layer"])])
def test_feedforward_cutsets_are_all_of_them(network):
    graph = training_graph(network, (0,))
    nodes = list(graph.nodes)
    expected = set()
    for side in chained.from_iterable(combinations(nodes, size) for size in range(1, len(nodes))):
        crossing = [e for e in graph.edges if (e[0] in side) != (e[1] in side)]
        if all(e[0] in side for e in crossing):
            expected.add(frozenset(crossing))
    found = list(feedforward_cutsets(graph))
    assert {frozenset(cut) for cut in found} == expected
    for edge, place in places(graph).items():
        assert (place == FEED_FORWARD) == any(edge in cut for cut in found)


def test_cutset_through_an_edge(graph):
    assert set(cutset_through(graph, ("A1", "A0", "gradient"))) >= {("A1", "A0", "gradient"), ("U0", "A0", "history")}
    with pytest.raises(UserError, match=r"F0 -> F1 \(activation\).*loop F0 -> F1 -> .* -> F0"):
        cutset_through(graph, ("F0", "F1", "activation"))
    assert loop_through(graph, ("U0", "U0", "state")) == ["U0", "U0"]


def test_insertion_at_a_cutset(graph):
    after = insert_at_cutset(graph, ("x", "y"), 2)
    assert {e: after.registers[e] for e in after.edges if e[0] in "xy"} == {
        ("x", "F0", "activation"): 2, ("x", "G0", "operand"): 2, ("y", "loss", "target"): 2,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"not feed-forward: edge G0 -> U0 \(step\) leads back"):
        feedforward_cutset(graph, {"x", "y", "F0", "U0"})
    with pytest.raises(UserError, match="insertion of -1 registers"):
        insert_at_cutset(graph, ("x", "y"), -1)
    with pytest.raises(UserError, match="unknown node 'F9'"):
        insert_at_cutset(graph, ("x", "F9"), 1)
    with pytest.raises(UserError, match="all nodes on one side"):
        insert_at_cutset(graph, (), 1)


def test_insertion_inside_a_loop_is_refused_with_the_loop():
    graph = training_graph(chain(2), (0, 1))
    with pytest.raises(IllegalMove, match=r"edge F0 -> F1 \(activation\) takes no registers: .*F0 -> F1 .*-> F0"):
        insert_registers(graph, {("F0", "F1", "activation"): 1})
    with pytest.raises(
        IllegalMove, match="loop or an input-output path"
    ):  # data and targets would no longer belong together
        insert_registers(graph, {("x", "F0", "activation"): 1, ("x", "G0", "operand"): 1})
    whole = {e: 1 for e in graph.edges if e[0] in "xy"} | {("G0", "U0", "step"): 3}
    assert insert_registers(graph, whole).registers["G0", "U0", "step"] == 3
    with pytest.raises(UserError, match=r"no edge F0 -> F7 \(activation\)"):
        insert_registers(graph, {("F0", "F7", "activation"): 1})


def test_delayed_gradients_come_in_whole_updates():
    graph = training_graph(chain(2), (0, 1), period=2)
    assert insert_delayed_gradients(graph, {"0": 4}).registers["G0", "U0", "step"] == 4
    with pytest.raises(IllegalMove, match=r"G0 -> U0 \(step\) is given 3 registers"):
        insert_delayed_gradients(graph, {"0": 3})
    with pytest.raises(IllegalMove, match="'7' has no gradient -> update edge"):
        insert_delayed_gradients(graph, {"7": 2})


def test_retiming_moves_registers_and_refuses_negative_ones(graph):
    delayed = insert_delayed_gradients(graph, {"0": 4})
    moved = retime(delayed, {"G0": 2})
    assert moved.registers["G0", "U0", "step"] == 2
    assert moved.registers["A1", "G0", "error"] == 2
    with pytest.raises(IllegalMove, match=r"edge G0 -> U0 \(step\) with -1 registers"):
        retime(graph, {"G0": 1})
    with pytest.raises(IllegalMove, match="outside node 'x'"):
        retime(graph, {"x": 1})
    with pytest.raises(IllegalMove, match="unknown node 'Q'"):
        retime(graph, {"Q": 1})


def test_cutset_retiming_is_node_retiming_and_undoes_itself():
    rng = random.Random(0)
    graph = derive(4).delayed
    for _ in range(200):
        nodes = rng.sample(["G0", "G1", "G2", "F0", "F1", "U0", "U1", "A1"], rng.randint(1, 5))
        count = rng.randint(-2, 2)
        try:
            after = retime_cutset(graph, nodes, count)
        except IllegalMove:
            continue
        assert retime_cutset(after, nodes, -count).registers == graph.registers
        assert {n: lag for n, lag in lags_between(graph, after).items() if lag} == dict.fromkeys(
            nodes, count
        ) or not count


def test_a_changed_loop_is_found(graph):
    other = graph.with_registers({("F0", "F1", "activation"): 1})
    with pytest.raises(IllegalMove, match="changes the delay of a loop"):
        lags_between(graph, other)


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


def test_bad_registers_and_kinds_are_refused(graph):
    with pytest.raises(UserError, match=r"edge F0 -> F1 \(activation\) has -1 registers"):
        graph.with_registers({("F0", "F1", "activation"): -1})
    with pytest.raises(UserError, match=r"edge x -> F0 \(activation\) has no register count"):
        SignalFlowGraph(graph.topology, {})
    with pytest.raises(UserError, match="unit 1 is of unknown kind 'lstm'"):
        from_units(["layer", "lstm"])
    with pytest.raises(UserError, match="number of layers is 0"):
        chain(0)
