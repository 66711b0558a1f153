"""The derivation: its steps, the delay law over random groupings, and that every proof can fail."""

import random
from dataclasses import replace

import pytest

from layerpipe2.errors import UserError
from layerpipe2.theory.certificates import task_times
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.leiserson_saxe import minimum_period
from layerpipe2.theory.moves import insert_delayed_gradients
from layerpipe2.theory.network import UNIT_KINDS, LayeredNetwork, Operation, chain, from_units
from layerpipe2.theory.proofs import prove


def random_groups(rng, units):
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
    between = [e for e in last.of_kind("gradient") + last.of_kind("activation") if not {"loss", "x"} & set(e)]
    assert {last.registers[e] for e in between} == {1}
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


def test_a_skip_over_a_stage_boundary_carries_one_register_per_boundary():
    operations = [Operation("a", 0, ("x",)), Operation("b", 1, ("a",)), Operation("c", 2, ("b", "a"))]
    derivation = derive(LayeredNetwork(tuple(operations)))
    assert derivation.pipeline.registers["Fa", "Fc", "activation"] == 2
    assert derivation.pipeline.registers["Ac", "Aa", "gradient"] == 2
    assert derivation.delays == (4, 2, 0)
    assert all(claim.holds for claim in prove(derivation))


@pytest.mark.parametrize(("factor", "more", "period"), [(0, 0, 10), (1, 0, 2), (2, 0, 2), (2, 1, 1)])
def test_what_2s_buys_over_s(factor, more, period):
    """Best clock period, in task times, of any retiming of sequential training with delays of ``factor S + more``.

    Boundaries need no registers here and results may come as late as they like: this is what the loops alone allow.
    LayerPipe2's 2 S buys a register on every boundary, in each direction, and no shorter period than PipeDream's S.
    """
    derivation = derive(5)
    circuit = insert_delayed_gradients(derivation.undelayed, {str(k): factor * (4 - k) + more for k in range(5)})
    assert minimum_period(circuit.networkx(), task_times(circuit), ("x", "y"))[0] == period


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
)
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "gpipe"}, "unknown delay law 'gpipe'"),
        ({"groups": [2, 0, 2]}, "number of units in group 1 is 0"),
        ({"groups": [2, 1]}, r"groups \[2, 1\] hold 3 units but the network has 4"),
        ({"group_size": 5}, "group size for 4 units is 5"),
        ({"group_size": 2, "groups": [2, 2]}, "both group_size 2 and groups"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        derive(chain(4), **settings)
    assert "\n" not in str(caught.value)
