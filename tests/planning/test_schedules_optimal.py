"""Makespans against the shortest possible ones, which an exact solver finds.

Start times of all actions are variables of a constraint programme: actions of one processor do not overlap, inputs
come first (without communication time). Which processor does a task is given.
"""

import pytest
from ortools.sat.python import cp_model

from layerpipe2.delays import Delays
from layerpipe2.planning import Costs, FlopDevice, StageWork, Work, uniform_costs
from layerpipe2.planning.schedules import SCHEDULES, build_schedule, simulate
from layerpipe2.planning.schedules.actions import Action, edges
from layerpipe2.planning.schedules.simulator import task_seconds

UNEQUAL = ((2, 2, 1), (1, 3, 2), (3, 1, 1), (2, 1, 3))


def shortest(schedule, costs):
    """Least makespan of the schedule's actions in any order, for integer operation counts on ``FlopDevice(1)``.

    Args:
        schedule: gives the actions and their processors; its order is ignored.
        costs: integer work per stage.
    """
    model = cp_model.CpModel()
    actions = [a for row in schedule.processors for a in row]
    length = {a: round(task_seconds(a.kind, costs.stages[a.stage], FlopDevice(1.0))) for a in actions}
    horizon = sum(length.values())
    start = {a: model.new_int_var(0, horizon, str(a)) for a in actions}
    for row in schedule.processors:
        model.add_no_overlap([model.new_fixed_size_interval_var(start[a], length[a], "") for a in row])
    needs = edges(schedule)
    for action in actions:
        for (kind, stage), lag, _ in needs[action.kind, action.stage]:
            source = Action(kind, stage, action.batch - lag)
            if source in start:
                model.add(start[action] >= start[source] + length[source])
    end = model.new_int_var(0, horizon, "makespan")
    model.add_max_equality(end, [start[a] + length[a] for a in actions])
    model.minimize(end)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


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
    assert max(simulate(schedule, costs, FlopDevice(1.0)).in_flight()) <= processors


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("costs", [uniform_costs, unequal_costs])
def test_no_schedule_beats_the_optimum(name, costs):
    stages, processors = (4, 2) if name == "interleaved" else (3, 3)
    schedule = build_schedule(name, stages, processors, 4)
    assert makespan(schedule, costs(stages)) >= shortest(schedule, costs(stages))
