"""The shortest possible schedule by an exact solver: what the builders' schedules are held against.

Start times of all actions are variables of a constraint programme: actions of one processor do not overlap, inputs
come first (without communication time), no stage holds more batches than it may. Which processor does a task is given.
"""

from ortools.sat.python import cp_model

from layerpipe2.planning import Costs, FlopDevice
from layerpipe2.planning.schedules import Action, Schedule
from layerpipe2.planning.schedules.actions import edges
from layerpipe2.planning.schedules.simulator import task_seconds


def shortest(schedule: Schedule, costs: Costs, most_held: int | None = None) -> int:
    """Least makespan of the schedule's actions in any order, for integer operation counts on ``FlopDevice(1)``.

    Args:
        schedule: gives the actions and their processors; its order is ignored.
        costs: integer work per stage.
        most_held: batches of which a stage may hold activations at one time.
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
    if most_held is not None:
        _limit_held(model, schedule, start, length, horizon, most_held)
    end = model.new_int_var(0, horizon, "makespan")
    model.add_max_equality(end, [start[a] + length[a] for a in actions])
    model.minimize(end)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def _limit_held(model, schedule, start, length, horizon, most_held):
    for stage in range(schedule.num_stages):
        held = []
        for batch in range(schedule.num_batches):
            last = Action("W" if ("W", stage) in schedule.home else "BW", stage, batch)
            size = model.new_int_var(0, horizon, "")
            end = model.new_int_var(0, horizon, "")
            model.add(end == start[last] + length[last])
            held.append(model.new_interval_var(start[Action("F", stage, batch)], size, end, ""))
        model.add_cumulative(held, [1] * len(held), most_held)
