"""Memory, communication, balance and iteration bound of partitions."""

import itertools
import random

import pytest

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.lab import networks
from layerpipe2.planning import Costs, FlopDevice, Link, StageWork, SystolicArray, Work, network_costs, uniform_costs
from layerpipe2.planning.balance import chain_cuts, merge
from layerpipe2.planning.schedules import build_schedule, simulate

SHAPE = (3, 32, 32)


def units():
    return networks.build("vgg", input_shape=SHAPE, num_classes=10, width=4)


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
def test_activation_formula_is_what_the_schedule_holds(convention):
    costs = network_costs(units(), SHAPE, 2, convention=convention)
    stages = len(costs.stages)
    line = simulate(build_schedule(convention, stages, stages, 40), uniform_costs(stages), FlopDevice(1.0))
    held = tuple(n * stage.saved_bytes for n, stage in zip(line.in_flight(), costs.stages, strict=True))
    assert costs.activation_bytes == held
    assert line.in_flight() == tuple(d + 1 for d in costs.delays.per_stage)


def test_recomputing_stages_keep_inputs_and_compute_twice():
    first, last = StageWork(Work(2), Work(3), Work(1), 0, 10, 4), StageWork(Work(1), Work(1), Work(1), 0, 5, 2)
    simple = StageWork(Work(1), Work(1), Work(1), 0, saved_bytes=3, input_bytes=3)  # nothing to win there
    stages, device = (first, simple, last), FlopDevice(1.0)
    plain, again = (Costs(stages, Delays.layerpipe2(3), recomputes=recomputes) for recomputes in (False, True))
    assert (plain.activation_bytes, again.activation_bytes) == ((50, 9, 5), (10 + 4 * 4, 9, 5))
    assert (plain.flops, again.flops) == ((6, 3, 3), (8, 3, 3))
    assert (plain.period(device), again.period(device)) == (6, 8)
    assert again.speedup(device) == 12 / 8
    late = Costs((last, first), Delays.none(2), recomputes=True)
    assert (late.flops, late.activation_bytes) == ((3, 6), (5, 10))  # nothing is in flight


def test_recomputation_does_not_hold_up_the_gradient():
    stages = (StageWork(Work(1), Work(1), Work(1), 0, 9, 1),) * 4
    device = FlopDevice(1.0, Link(latency=1.0))
    plain, again = (Costs(stages, Delays.pipedream(4), recomputes=recomputes) for recomputes in (False, True))
    assert plain.period(device) == (4 * 3 + 3 * 2) / 4
    assert again.period(device) == max(4, plain.period(device))


def test_history_bytes_follow_the_strategy():
    by_strategy = {s: network_costs(units(), SHAPE, 3, s) for s in ("stash", "latest", "ema-window", "sequential")}
    stash = by_strategy["stash"]
    assert stash.delays.per_stage == (4, 2, 0)
    assert stash.history_bytes == tuple(d * p for d, p in zip((4, 2, 0), stash.parameter_bytes, strict=True))
    assert by_strategy["ema-window"].history_bytes == (*map(float, stash.parameter_bytes[:2]), 0.0)
    assert sum(by_strategy["latest"].history_bytes) == 0
    sequential = by_strategy["sequential"]
    assert len(sequential.stages) == 1
    assert sequential.boundary_bytes == ()


def test_boundary_is_activation_and_gradient_and_scales_with_the_batch():
    one, many = (network_costs(units(), SHAPE, 4, batch_size=b) for b in (1, 8))
    # Units 0-3 end with 8 channels of 8 x 8 pixels, units 4-7 with 32 channels of 4 x 4.
    assert one.boundary_bytes == (2 * 4 * 8 * 8 * 8, 2 * 4 * 32 * 4 * 4)
    assert many.boundary_bytes == tuple(8 * b for b in one.boundary_bytes)
    assert many.flops == tuple(8 * f for f in one.flops)
    assert many.parameter_bytes == one.parameter_bytes


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream", "none"])
def test_iteration_bound_is_met_by_uniform_stages(convention):
    costs = uniform_costs(4)
    costs = Costs(costs.stages, Delays.by_law(convention, 4))
    assert costs.period(FlopDevice(1.0)) == (12.0 if convention == "none" else 3.0)
    assert costs.speedup(FlopDevice(1.0)) == (1.0 if convention == "none" else 4.0)
    assert costs.balance() == costs.balance(FlopDevice(1.0)) == 1.0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
def test_iteration_bound_is_never_beaten(seed, convention):
    draw = random.Random(seed)
    size = [draw.randint(0, 4) for _ in range(6)]
    stages = tuple(
        StageWork(*(Work(draw.randint(0, 5)) for _ in range(3)), input_bytes=a, output_bytes=b)
        for a, b in itertools.pairwise(size)
    )
    costs = Costs(stages, Delays.by_law(convention, 5))
    device = FlopDevice(1.0, Link(draw.choice([0.5, 1.0, 4.0]), draw.randint(0, 3)))
    line = simulate(build_schedule(convention, 5, 5, 120), costs, device)
    assert line.period >= costs.period(device) * (1 - 1e-9)
    assert line.steady_utilisation <= 1 + 1e-9


def test_double_delay_hides_what_single_delay_exposes():
    stages, latency, compute = 5, 2.0, 3.0
    device = FlopDevice(1.0, Link(latency=latency))
    periods = {}
    for name in ("pipedream", "layerpipe2"):
        costs = uniform_costs(stages, message_bytes=1)
        periods[name] = simulate(build_schedule(name, stages, stages, 100), costs, device).period
        assert Costs(costs.stages, Delays.by_law(name, stages)).period(device) == pytest.approx(periods[name])
    assert periods["layerpipe2"] == compute
    assert periods["pipedream"] == pytest.approx(compute + 2 * (stages - 1) * latency / stages)


@pytest.mark.parametrize("other_last", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_chain_cuts_equal_exhaustive_search(seed, other_last):
    draw = random.Random(seed)
    n = draw.randint(1, 8)
    parts = draw.randint(1, n)
    loads = [draw.randint(1, 9) for _ in range(n)]
    cuts = [(float(draw.randint(0, 9)), float(draw.randint(0, 9))) for _ in range(n - 1)]

    last = [draw.randint(1, 9) for _ in range(n)] if other_last else loads

    def value(starts):
        runs = [sum((last if b == n else loads)[a:b]) for a, b in itertools.pairwise(starts)]
        inner = [cuts[i - 1] for i in starts[1:-1]]
        return max([*runs, *(max(c) / 2 for c in inner)]), sum(map(sum, inner))

    choices = [(0, *inner, n) for inner in itertools.combinations(range(1, n), parts - 1)]
    found = chain_cuts(loads, cuts, parts, lambda size: size / 2, last=last if other_last else None)
    assert value(found) == min(map(value, choices))


def test_merged_units_cost_what_the_grouped_network_costs():
    alone, grouped = network_costs(units(), SHAPE, 1), network_costs(units(), SHAPE, 4)
    merged = merge(alone.stages, (0, 4, 8, 9))
    for a, b in zip(merged, grouped.stages, strict=True):
        assert (a.total.flops, a.total.gemms) == (b.total.flops, b.total.gemms)
        assert (a.parameter_bytes, a.input_bytes, a.output_bytes) == (b.parameter_bytes, b.input_bytes, b.output_bytes)
        assert a.saved_bytes >= b.saved_bytes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network_costs(units(), SHAPE, 10), r"group size for \d+ units is 10; give an integer from 1 to"),
        (lambda: uniform_costs(0), "number of stages is 0"),
        (lambda: chain_cuts([1.0, 1.0], [(0.0, 0.0)], 3, lambda size: size), "number of stages for 2 units is 3"),
        (lambda: FlopDevice(0), "processor speed is 0; give a number above 0, in FLOP/s"),
        (lambda: Link(-1), "link bandwidth is -1; give a number above 0, in bytes/s"),
        (lambda: Link(1, -1), "link latency is -1 s; give a finite number"),
        (lambda: SystolicArray(rows=0), "array rows is 0; give a number above 0, in cells"),
        (lambda: SystolicArray(dataflow="rs"), "unknown dataflow 'rs'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
