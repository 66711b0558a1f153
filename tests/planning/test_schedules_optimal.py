"""Makespans against an exact solver's."""

import pytest

from layerpipe2.delays import Delays
from layerpipe2.planning import Costs, FlopDevice, StageWork, Work, uniform_costs
from layerpipe2.planning.schedules import SCHEDULES, build_schedule, simulate
from tests.planning.oracle import shortest

UNEQUAL = ((2, 2, 1), (1, 3, 2), (3, 1, 1), (2, 1, 3))


def unequal_costs(stages):
    work = tuple(StageWork(*map(Work, UNEQUAL[k])) for k in range(stages))
    return Costs(work, Delays.layerpipe2(stages))


def makespan(schedule, costs):
    return simulate(schedule, costs, FlopDevice(1.0)).makespan


@pytest.mark.parametrize(("processors", "batches"), [(2, 2), (2, 4), (3, 4)])
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "pipedream"])
def test_schedules_with_whole_backward_passes_are_optimal_for_equal_stages(name, processors, batches):
    costs = uniform_costs(processors)
    schedule = build_schedule(name, processors, processors, batches)
    assert makespan(schedule, costs) == shortest(schedule, costs) == 3 * (batches + processors - 1)


@pytest.mark.parametrize(("processors", "batches"), [(2, 2), (2, 4), (3, 4)])
def test_zero_bubble_is_optimal_for_equal_tasks_even_without_a_memory_limit(processors, batches):
    costs, schedule = uniform_costs(processors), build_schedule("zb-h1", processors, processors, batches)
    assert makespan(schedule, costs) == shortest(schedule, costs) == 3 * batches + processors - 1
    assert shortest(schedule, costs, most_held=processors) == 3 * batches + processors - 1
    assert max(simulate(schedule, costs, FlopDevice(1.0)).in_flight()) <= processors


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("costs", [uniform_costs, unequal_costs])
def test_no_schedule_beats_the_optimum(name, costs):
    stages, processors = (4, 2) if name == "interleaved" else (3, 3)
    schedule = build_schedule(name, stages, processors, 4)
    assert makespan(schedule, costs(stages)) >= shortest(schedule, costs(stages))


def test_solver_sees_the_memory_limit():
    costs, schedule = uniform_costs(3), build_schedule("zb-h1", 3, 3, 3)
    assert shortest(schedule, costs, most_held=1) > shortest(schedule, costs)
