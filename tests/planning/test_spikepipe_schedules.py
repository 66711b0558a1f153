"""SpikePipe's task graph and list schedules: by hand, valid, refused when broken, and against the optimum."""

from dataclasses import replace

import numpy as np
import pytest
from ortools.sat.python import cp_model

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.planning import Link, SystolicArray
from layerpipe2.planning.spikepipe.networks import SPIKING, Setting, block, conv, dense, spiking
from layerpipe2.planning.spikepipe.scheduler import list_schedule
from layerpipe2.planning.spikepipe.tasks import task_graph
from layerpipe2.planning.spikepipe.validate import check

SMALL = Setting(SystolicArray(4, 4, clock=1.0), batch_size=2, time_steps=2)


def graph(units=2, steps=1, delays=None, setting=SMALL):
    """Of a chain of 8 neurons per unit, with LayerPipe2's delays."""
    law = Delays.layerpipe2(units) if delays is None else Delays.custom(delays)
    return task_graph((dense(8, 8),) * units, setting, steps, law)


def timed(seed, units=2, steps=1):
    """The same graph with small whole times."""
    made = graph(units, steps)
    times = np.random.default_rng(seed).integers(1, 6, len(made.tasks))
    return made._replace(seconds=tuple(map(float, times)))


def test_cycles_of_the_tasks_by_hand():
    """2 samples, 3 to 8 channels, 3 x 3 window, 25 pixels: 50 rows per step; 27 x 8 weights: 7 x 2 folds of 4 x 4."""
    setting, unit = Setting(SystolicArray(4, 4, clock=1.0), 2, 8), conv(3, 8, 5)
    assert setting.seconds("F", unit, 1) == 7 * 2 * (50 + 2 * 4 + 4 - 2)
    assert setting.seconds("B", unit, 1) == 2 * 7 * (50 + 2 * 4 + 4 - 2)
    assert setting.seconds("W", unit, 1) == 7 * 2 * (50 + 4 + 4 - 2)
    assert 8 * setting.seconds("F", unit, 1) - setting.seconds("F", unit, 8) == 7 * 14 * (2 * 4 + 4 - 2)
    assert setting.seconds("F", block(8, 8, 5, 5), 1) == 2 * setting.seconds("F", conv(8, 8, 5), 1)


@pytest.mark.parametrize("name", SPIKING)
def test_the_units_of_a_network_fit_each_other(name):
    units = spiking(name)
    assert 8 <= len(units) <= 10
    assert (units[0].inputs, units[-1].outputs) == (784, 10)
    assert [a.outputs for a in units[:-1]] == [b.inputs for b in units[1:]]


def test_what_a_task_waits_for():
    made = graph(delays=(2, 0))
    name = {j: f"{task.kind}{task.unit}{task.chunk}" for j, task in enumerate(made.tasks)}
    found = {name[j]: {(name[i.source], i.lag) for i in of} for j, of in enumerate(made.inputs)}
    assert found == {
        "F00": {("W00", 3)},
        "F10": {("F00", 0), ("W10", 1)},
        "F01": {("F00", 0), ("W00", 3)},
        "F11": {("F01", 0), ("F10", 0), ("W10", 1)},
        "B11": {("F11", 0), ("W10", 1)},
        "W11": {("F11", 0), ("F01", 0), ("W10", 1)},
        "W01": {("B11", 0), ("F01", 0), ("W00", 1)},
        "B10": {("B11", 0), ("F10", 0), ("F11", 0), ("W10", 1)},
        "W10": {("W11", 0), ("F10", 0), ("F00", 0)},
        "W00": {("B10", 0), ("W01", 0), ("F00", 0)},
    }
    # 2 samples of 8 neurons in one step: spikes of 1 bit, all else of 16; 64 weights.
    sizes = {(name[j], name[i.source]): i.size for j, of in enumerate(made.inputs) for i in of}
    assert (sizes["F10", "F00"], sizes["W01", "B11"], sizes["B10", "F10"], sizes["F00", "W00"]) == (2, 32, 32, 128)
    assert sizes["W10", "W11"] == 32 + 128  # the adjoint and the sum so far


def test_two_processors_by_hand():
    """One unit on each, all tasks of 2 s; messages take 1 s. Only what crosses is sent, and only once."""
    made = graph(steps=2, delays=(2, 0))
    made = made._replace(seconds=(2.0,) * len(made.tasks))
    plan = list_schedule(made, 2, 2, Link(latency=1.0), [task.unit for task in made.tasks])
    name = [f"{kind}{unit}" for kind, unit, _ in made.tasks]
    starts = [dict(zip(name, row, strict=True)) for row in plan.start.reshape(2, -1)]
    # The second unit has no delay: its W is more urgent than its B, since F of the next mini-batch waits for it.
    assert starts[0] == {"F0": 0, "F1": 3, "W1": 5, "B1": 7, "W0": 10}
    assert starts[1] == {"F0": 2, "F1": 9, "B1": 11, "W1": 13, "W0": 14}
    assert sorted(plan.messages[:, 2:].tolist()) == [[0, 1], [0, 1], [1, 0], [1, 0]]
    check(plan)


def test_free_placement_goes_where_a_task_ends_first_by_hand():
    """One unit, all tasks of 2 s, messages of 0.5 s.

    With two mini-batches the second W follows the first, where the weights are at 4 s; with three the first W leaves
    the processor where the third F waits.
    """
    made = graph(units=1, steps=2, delays=(5,))._replace(seconds=(2.0, 2.0))
    for batches, forward, weight, ends in ((2, [0, 1], [0, 0], [4, 6]), (3, [0, 1, 0], [1, 1, 1], [4.5, 6.5, 8.5])):
        plan = list_schedule(made, batches, 2, Link(latency=0.5))
        assert plan.place[0::2].tolist() == forward
        assert plan.place[1::2].tolist() == weight
        assert plan.end[1::2].tolist() == ends


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("link", [Link(), Link(1.0, 2.0), Link(64.0, 0.5)])
@pytest.mark.parametrize(("processors", "steps"), [(1, 1), (3, 1), (5, 2)])
def test_every_plan_is_valid(processors, steps, link, together):
    made = timed(processors, units=3, steps=steps)
    plan = list_schedule(made, 7, processors, link, together=together)
    check(plan)
    assert plan.end.max() >= 7 * sum(made.seconds) / processors
    if processors == 1:
        assert plan.end.max() == 7 * sum(made.seconds)
        assert not len(plan.messages)
    if together:
        home = plan.place.reshape(7, -1)
        units = np.array([task.unit for task in made.tasks])
        assert all((home[:, units == k] == home[:, units == k][:, :1]).all() for k in range(3))


def altered(plan, field, index, change):
    values = getattr(plan, field).copy()
    values[index] += change
    return plan._replace(**{field: values})


@pytest.mark.parametrize(
    ("field", "index", "change", "message"),
    [
        ("place", 0, 9, "F of unit 0, run 0, batch 0 is on no processor"),
        ("end", 5, 1.0, "batch 0 does not take its time"),
        ("messages", (0, 2), 1, "is sent from elsewhere"),
        ("messages", (0, 3), 2, "is not sent one of its inputs"),
        ("sent", (0, 1), -0.5, "is sent before it has ended"),
        ("sent", (0, 2), 0.5, "is not sent at the speed of the link"),
        ("sent", (0, 0), 1.0, "is not sent at the speed of the link"),
    ],
)
def test_broken_plans_are_refused(field, index, change, message):
    plan = list_schedule(timed(1), 4, 2, Link(16.0, 1.0), [0, 1] * 5)
    check(plan)
    with pytest.raises(UserError, match=message):
        check(altered(plan, field, index, change))


def test_two_things_at_once_and_early_starts_are_refused():
    plan = list_schedule(timed(1), 4, 2, Link(16.0, 1.0))
    last = np.argsort(plan.start)[-1]
    shift = plan.start[last] - plan.start[plan.place == plan.place[last]].min()
    early = altered(altered(plan, "start", last, -shift), "end", last, -shift)
    with pytest.raises(UserError, match="starts before its processor is free"):
        check(early)
    late = altered(altered(plan, "start", 0, 1e3), "end", 0, 1e3)
    with pytest.raises(UserError, match=r"is sent before it has ended|starts before its inputs are there"):
        check(late)
    alone = list_schedule(timed(1), 4, 1)
    order = np.argsort(alone.start)
    swapped = alone._replace(start=alone.start.copy(), end=alone.end.copy())
    swapped.start[order[0]], swapped.end[order[0]] = 1e3, 1e3 + alone.graph.seconds[order[0]]
    with pytest.raises(UserError, match="starts before its inputs are there"):
        check(swapped)
    sent = list_schedule(timed(1), 4, 2, Link(16.0, 1.0), [0, 1] * 5)
    pair = np.flatnonzero((sent.messages[:, 2:] == sent.messages[0, 2:]).all(1))[:2]
    moved = sent.sent.copy()
    moved[pair[0], 1:] += moved[pair[1], 1] - moved[pair[0], 1]
    with pytest.raises(UserError, match="is sent on a busy link"):
        check(sent._replace(sent=moved))


def shortest(made, batches, processors, latency=0, home=None):
    """Least makespan with any placement and order, for whole times; every message takes ``latency``."""
    model, count = cp_model.CpModel(), len(made.tasks)
    length = [round(made.seconds[i % count]) for i in range(batches * count)]
    horizon = sum(length) + latency * len(length)
    start = [model.new_int_var(0, horizon, "") for _ in length]
    on = [[model.new_bool_var("") for _ in range(processors)] for _ in length]
    for i, of in enumerate(on):
        model.add_exactly_one(of)
        if home is not None:
            model.add(of[home[i % count]] == 1)
    for p in range(processors):
        parts = [
            model.new_optional_fixed_size_interval_var(s, n, o[p], "")
            for s, n, o in zip(start, length, on, strict=True)
        ]
        model.add_no_overlap(parts)
    for i in range(len(length)):
        for source in made.inputs[i % count]:
            given = i - i % count + source.source - source.lag * count
            if given < 0:
                continue
            model.add(start[i] >= start[given] + length[given])
            for p in range(processors if latency else 0):
                model.add(start[i] >= start[given] + length[given] + latency).only_enforce_if(on[given][p], ~on[i][p])
    end = model.new_int_var(0, horizon, "")
    model.add_max_equality(end, [s + n for s, n in zip(start, length, strict=True)])
    model.minimize(end)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def gap(made, batches, processors, latency, home):
    """Makespan of the list schedule over the least one."""
    plan = list_schedule(made, batches, processors, Link(latency=float(latency)), home)
    check(plan)
    return plan.end.max() / shortest(made, batches, processors, latency, home)


@pytest.mark.parametrize("latency", [0, 1])
@pytest.mark.parametrize("placement", ["fixed", "free"])
def test_list_schedules_are_near_the_optimum_and_never_below(placement, latency):
    gaps = []
    for seed in range(4):
        made = timed(seed)
        home = [task.unit for task in made.tasks] if placement == "fixed" else None
        gaps.append(gap(made, 2, 2, latency, home))
    assert min(gaps) >= 1
    assert np.mean(gaps) <= 1.12


def test_bad_requests_are_one_line():
    made = graph()
    for message, call in {
        "number of processors is 0": lambda: list_schedule(made, 2, 0),
        "number of mini-batches is 0": lambda: list_schedule(made, 0, 2),
        "mini-batches times tasks is": lambda: list_schedule(made, 10**6, 2),
        "homes are": lambda: list_schedule(made, 2, 2, home=[2] * len(made.tasks)),
        "number of time steps is 0": lambda: replace(SMALL, time_steps=0),
        "gradients have 8 bits": lambda: replace(SMALL, bits=8),
        "time steps per task is 3": lambda: graph(steps=3),
        "unknown spiking network 'vg'; did you mean 'vgg'": lambda: spiking("vg"),
    }.items():
        with pytest.raises(UserError, match=message):
            call()
