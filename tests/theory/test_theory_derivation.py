"""The derivation: its steps, the delay law over random groupings, and that every proof can fail."""

import json
import random
from dataclasses import replace

import networkx as nx
import pytest

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.stages import partition
from layerpipe2.theory import FORMATS, chain, derive, explain, export, from_units, prove, resnet
from layerpipe2.theory.certificates import period_with_delays
from layerpipe2.theory.network import UNIT_KINDS


def random_groups(rng: random.Random, units: int) -> list[int]:
    cuts = sorted(rng.sample(range(1, units), rng.randint(0, units - 1)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, units], strict=True)]


def test_the_four_steps_of_a_chain():
    derivation = derive(4)
    step = {s.number: [s.graph.registers[f"G{i}", f"U{i}", "step"] for i in range(4)] for s in derivation.steps}
    assert step == {"0": [0] * 4, "1": [0] * 4, "2": [6, 4, 2, 0], "3": [0, 4, 2, 0], "4": [0, 0, 2, 0], "4.2": [0] * 4}
    first = next(s.graph for s in derivation.steps if s.number == "1")
    assert first.registers["x", "F0", "activation"] == first.registers["A0", "out", "output"] == 3
    third = next(s.graph for s in derivation.steps if s.number == "3")
    assert third.registers["F0", "F1", "activation"] == third.registers["A1", "A0", "gradient"] == 3
    last = derivation.pipeline
    assert all(last.registers[e] == 1 for e in last.of_kind("gradient") + last.of_kind("activation") if "loss" not in e
               and "x" not in e)  # fmt: skip
    assert last.registers["x", "F0", "activation"] == last.registers["A0", "out", "output"] == 0


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream", "none"])
def test_all_proofs_hold_over_random_groupings(convention):
    rng = random.Random(convention)
    for _ in range(50):
        units = rng.randint(1, 9)
        kinds = [rng.choice(UNIT_KINDS) for _ in range(units)]
        derivation = derive(from_units(kinds), groups=random_groups(rng, units), convention=convention)
        failed = [str(claim) for claim in prove(derivation) if not claim.holds]
        assert not failed, (kinds, derivation.sizes, failed)


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream", "none"])
def test_engine_schedule_is_the_derived_one_over_hundreds_of_groupings(convention):
    rng = random.Random(7)
    for _ in range(200):
        units = rng.randint(1, 14)
        derivation = derive(units, groups=random_groups(rng, units), convention=convention)
        schedule = Delays.by_law(convention, derivation.num_stages)
        assert Delays(derivation.delays, convention) == schedule
        assert derivation.history == dict(derivation.gradient_delays)


@pytest.mark.parametrize("group_size", range(1, 11))
def test_resnet18_at_every_group_size(group_size):
    network = resnet()
    derivation = derive(network, group_size=group_size)
    stages = partition([nn_identity() for _ in range(10)], group_size)
    assert derivation.sizes == tuple(len(stage) for stage in stages)
    assert all(claim.holds for claim in prove(derivation))


def nn_identity():
    from torch import nn

    return nn.Identity()


def test_a_skip_over_a_stage_boundary_carries_one_register_per_boundary():
    from layerpipe2.theory import LayeredNetwork, Operation

    operations = [Operation("a", 0, ("x",)), Operation("b", 1, ("a",)), Operation("c", 2, ("b", "a"))]
    derivation = derive(LayeredNetwork(tuple(operations)))
    assert derivation.pipeline.registers["Fa", "Fc", "activation"] == 2
    assert derivation.pipeline.registers["Ac", "Aa", "gradient"] == 2
    assert derivation.delays == (4, 2, 0)
    assert all(claim.holds for claim in prove(derivation))


def test_what_2s_buys_over_s():
    derivation = derive(5)
    after = {str(k): 4 - k for k in range(5)}
    period = {f: period_with_delays(derivation, {op: delay(s) for op, s in after.items()})
              for f, delay in {"0": lambda s: 0, "S": lambda s: s, "2S": lambda s: 2 * s,
                               "2S+1": lambda s: 2 * s + 1}.items()}  # fmt: skip
    assert period == {"0": 10, "S": 2, "2S": 2, "2S+1": 1}


def test_loops_name_what_forbids_a_smaller_delay():
    assert derive(2).loops["0"] == ["U0", "F0", "F1", "loss", "A1", "G0", "U0"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda d: {"gradient_delays": {op: delay + 2 for op, delay in d.gradient_delays.items()}}, "delay law"),
        (lambda d: {"gradient_delays": {**d.gradient_delays, "1": 4}}, "groups"),
        (lambda d: {"gradient_delays": {**d.gradient_delays, "0": 6}}, "engine"),
        (lambda d: {"gradient_delays": {**d.gradient_delays, "0": 6}}, "history"),
        (lambda d: {"steps": (d.steps[0], replace(d.steps[1], graph=d.delayed), *d.steps[2:])}, "places"),
        (lambda d: {"loops": {**d.loops, "0": ["U0", "U0"]}}, "least delay"),
        (lambda d: {"steps": (*d.steps, d.steps[2])}, "pipelined"),
        (lambda d: {"steps": (*d.steps, d.steps[2])}, "activations"),
    ],
)  # fmt: skip
def test_every_proof_can_fail(change, key):
    derivation = derive(4, groups=[1, 2, 1])
    claims = {claim.key: claim.holds for claim in prove(replace(derivation, **change(derivation)))}
    assert not claims[key]


def test_a_step_that_is_no_retiming_is_refused_by_the_proof():
    derivation = derive(4)
    graph = derivation.pipeline
    late = graph.with_registers({e: graph.registers[e] + 1 for e in graph.edges if e[1] == "out"})
    with pytest.raises(UserError, match="changes the delay"):
        prove(replace(derivation, steps=(*derivation.steps, replace(derivation.steps[-1], graph=late))))


def test_report_tables_and_exports():
    derivation = derive(3, convention="pipedream")
    report = explain(derivation)
    assert "step 2t" in report
    assert "3 take a delayed gradient" in report
    assert "step 4.3" not in explain(derive(6))
    assert report.count("[holds]") == len(prove(derivation))
    graph = derivation.pipeline
    assert export(graph, "table").splitlines()[1].split() == ["0", "0", "0", "1", "6", "0", "0", "5", "5"]
    assert len(export(graph, "edges").splitlines()) == 1 + len(list(graph.edges))
    data = json.loads(export(graph, "json"))
    assert {(e["source"], e["target"], e["kind"]): e["registers"] for e in data["edges"]} == graph.registers
    again = nx.parse_graphml(export(graph, "graphml"), force_multigraph=True)
    assert sum(again.edges[e]["registers"] for e in again.edges) == sum(graph.registers.values())
    assert '"U0" -> "A0" [kind="history", label="6D"]' in export(graph, "dot")
    assert set(FORMATS) == {"table", "edges", "dot", "json", "graphml"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "gpipe"}, "unknown delay convention 'gpipe'"),
        ({"groups": [2, 0, 2]}, "group 1 has 0 units"),
        ({"groups": [2, 1]}, r"groups \[2, 1\] hold 3 units but the network has 4"),
        ({"group_size": 5}, "group size 5 is out of range"),
        ({"group_size": 2, "groups": [2, 2]}, "both group_size 2 and groups"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        derive(chain(4), **settings)
    assert "\n" not in str(caught.value)


def test_unknown_format():
    with pytest.raises(UserError, match="unknown graph format 'png'"):
        export(derive(2).pipeline, "png")
