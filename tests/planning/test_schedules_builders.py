"""The schedules: valid at many sizes, with the delays and the makespans that theory gives."""

import pytest

from layerpipe2.delays import DELAY_LAWS, Delays
from layerpipe2.errors import UserError
from layerpipe2.planning import FlopDevice, Link, StageWork, Work, uniform_costs
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.schedules import SCHEDULES, build_schedule, repeat, simulate
from layerpipe2.planning.schedules.layerpipe import layerpipe
from layerpipe2.planning.schedules.validate import validate
from layerpipe2.planning.work import Gemm

DEVICE = FlopDevice(1.0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("processors", [1, 2, 3, 5])
def test_every_schedule_is_valid_at_every_size(name, processors):
    for factor in (1, 2, 3) if name in ("interleaved", "layerpipe") else (1,):
        for groups in (1, 2, 4):
            batches = groups * processors if SCHEDULES[name].stages_per_processor > 1 else groups + 1
            schedule = build_schedule(name, factor * processors, processors, batches)
            validate(schedule)
            assert (schedule.name, schedule.num_processors) == (name, processors)
            assert sum(map(len, schedule.processors)) == len(schedule.home) * batches
            assert schedule.batches_per_update == (batches if SCHEDULES[name].synchronous else 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_refuses_counts_that_are_none(name):
    for counts, what in (((0, 1, 1), "stages"), ((2, 0, 2), "processors"), ((2, 2, 0), "batches")):
        with pytest.raises(UserError, match=f"number of {what} is 0"):
            build_schedule(name, *counts)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) & set(DELAY_LAWS)))
@pytest.mark.parametrize("stages", [1, 2, 5, 8])
def test_delays_are_those_of_the_engine(name, stages):
    assert build_schedule(name, stages, stages, 4 * stages).delays() == DELAY_LAWS[name].delays(stages)


@pytest.mark.parametrize("name", [name for name, row in SCHEDULES.items() if row.synchronous])
def test_synchronous_schedules_have_no_delay(name):
    schedule = repeat(build_schedule(name, 4, 4, 8), 3)
    validate(schedule)
    assert schedule.delays() == (0, 0, 0, 0)


def test_layerpipe_of_whole_layers_is_layerpipe2():
    whole, own = layerpipe(6, 6, 30), build_schedule("layerpipe2", 6, 6, 30)
    assert (whole.processors, whole.delays()) == (own.processors, own.delays())


@pytest.mark.parametrize(("processors", "batches"), [(2, 8), (4, 8), (4, 16)])
def test_idle_time_of_synchronous_schedules(processors, batches):
    def idle(name, stages=processors, stage_time=1):
        costs = uniform_costs(stages, *(stage_time,) * 3)
        makespan = simulate(build_schedule(name, stages, processors, batches), costs, DEVICE).makespan
        return makespan - 3 * stage_time * batches * stages / processors

    # (P - 1) (f + b + w), a third of it for zero-bubble H1, and 1/v of it with v chunks per processor.
    assert idle("gpipe") == idle("1f1b") == 3 * (processors - 1)
    assert idle("zb-h1") == processors - 1
    assert idle("interleaved", 2 * processors, 0.5) == 3 * (processors - 1) / 2


def test_held_batches():
    held = {n: simulate(build_schedule(n, 4, 4, 12), uniform_costs(4), DEVICE).in_flight() for n in SCHEDULES}
    assert held["gpipe"] == (12, 12, 12, 12)
    assert held["1f1b"] == held["pipedream"] == (4, 3, 2, 1)
    assert held["zb-h1"] == (4, 4, 4, 4)
    assert held["layerpipe2"] == (7, 5, 3, 1)


def test_layerpipe_splits_the_gradient_of_a_slow_layer():
    costs = uniform_costs(2, forward=2, activation=4, weight=2)
    schedule = layerpipe(2, 3, 30, costs, DEVICE)
    # The chain is F0 B0: 6, W0: 2, B2: 2, B1: 2, F1: 2, W1: 2. The best three runs take 6, and 6 and 4 in any order;
    # whole layers could only take 8.
    assert [schedule.home[t] for t in (("F", 0), ("B", 0), ("W", 0), ("W", 1))] == [0, 0, 1, 2]
    line = simulate(schedule, costs, DEVICE)
    assert line.period == 6
    # W of layer 0 is on the next processor: F of layer 0 reads an update that is two boundaries, there and back, old.
    assert schedule.delays()[0] == schedule.weight_lag["F", 0] - 1 > 0


def test_halves_run_on_two_processors_and_send_half_gradients():
    work = [StageWork(Work(1), Work(1), Work(1), 4, 0, 8, 8), StageWork(Work(3), Work(6), Work(3), 40, 0, 8, 16)]
    costs = Costs(tuple(work), Delays.none(2))
    schedule = layerpipe(2, 2, 20, costs, DEVICE)
    assert {t: schedule.home[t] for t in (("B2", 1), ("B1", 1))} == {("B2", 1): 0, ("B1", 1): 1}
    line = simulate(schedule, costs, DEVICE)
    # Forward the activation (8); back the half gradient (4), and half the weights (20) but for the last update,
    # which nothing reads any more. The loss is where layer 1 is, so its own gradient does not travel.
    assert line.link_bytes == {(0, 1): 8 * 20, (1, 0): 4 * 20 + 20 * 19}
    assert line.period == 9


def test_compound_units_pay_for_what_they_ship():
    gemms = (Gemm(1, 1, 2), Gemm(1, 1, 2))
    unit = StageWork(Work(8, gemms), Work(8, gemms), Work(8, gemms), 10, 100, 6, 6)
    costs = Costs((unit,) * 2, Delays.none(2))
    schedule = layerpipe(2, 4, 10, costs, FlopDevice(1.0, Link(1e9)))
    assert schedule.compound == {0, 1}
    assert not {kind for kind, _ in schedule.home} & {"B1", "B2"}
    assert simulate(schedule, costs, FlopDevice(1.0)).bytes_per_batch > 4 * 6


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (("gantt", 2, 2, 2), "unknown schedule 'gantt'; known: gpipe, 1f1b"),
        (("pipedream", 2, 3, 2), "3 processors, but only 2 stages.*at most 2 processors"),
        (("zb-h1", 4, 2, 2), "4 stages on 2 processors; group the units"),
        (("interleaved", 3, 2, 4), "3 stages on 2 processors; give a multiple of 2"),
        (("interleaved", 4, 2, 3), "3 batches on 2 processors; give a multiple of 2"),
        (("layerpipe", 2, 7, 2), "7 processors, but 2 layers give only 6 tasks; give at most 6"),
    ],
)
def test_counts_out_of_range_are_named(counts, message):
    with pytest.raises(UserError, match=message):
        build_schedule(*counts)


def test_costs_of_other_stages_are_refused():
    with pytest.raises(UserError, match="the costs are of 3"):
        layerpipe(2, 2, 2, uniform_costs(3))
