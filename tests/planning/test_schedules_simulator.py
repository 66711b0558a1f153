"""Validator, simulator, drawings as text."""

from dataclasses import replace

import pytest

from layerpipe2.errors import UserError
from layerpipe2.planning import FlopDevice, Link, uniform_costs
from layerpipe2.planning.schedules import build_schedule, simulate
from layerpipe2.planning.schedules.actions import Action, Schedule
from layerpipe2.planning.schedules.validate import ScheduleError, validate

F0, B0, W0 = (Action(kind, 0, 0) for kind in ("F", "B", "W"))


def altered(schedule, processor, change):
    rows = [list(row) for row in schedule.processors]
    change(rows[processor])
    return replace(schedule, processors=tuple(map(tuple, rows)))


def test_wrong_order_prints_the_grid_with_the_bad_step_marked():
    with pytest.raises(ScheduleError) as error:
        validate(altered(build_schedule("1f1b", 3, 3, 4), 1, lambda row: row.insert(0, row.pop(5))))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("schedule '1f1b', processor 1, step 0: F of stage 1, batch 3 waits for F of stage 0")
    # A cycle: processor 1 wants batch 3 first, which processor 0 gives only after the backward pass of batch 0.
    assert "earlier" in lines[0]
    assert lines[1].split() == ["step", "0", "1", "2", "3", "4", "5"]
    assert lines[3].startswith("processor 1  >F3<")


def test_backward_before_forward_names_both():
    schedule = Schedule("mine", ((B0, F0, W0),), 1, 1)
    with pytest.raises(
        ScheduleError, match="step 0: B of stage 0, batch 0 waits for F of stage 0, batch 0, which is step 1"
    ):
        validate(schedule)
    with pytest.raises(ScheduleError, match="put the one that is waited for earlier"):
        simulate(schedule, uniform_costs(1), FlopDevice(1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.append(row[0]), "F of stage 0, batch 0 is done twice; remove one"),
        (lambda row: row.pop(), r"stage 0 does BW for 1 of 2 batches; add the missing ones"),
        (lambda row: row.__setitem__(0, Action("X", 0, 0)), "unknown kind 'X'; choose one of F, B, W"),
        (lambda row: row.__setitem__(0, Action("F", 2, 0)), "of no stage; give a stage from 0 to 1"),
        (lambda row: row.__setitem__(0, Action("F", 0, 7)), "of no batch; give a batch from 0 to 1"),
        (lambda row: row.__setitem__(0, Action("F", 1, 0)), "F of stage 1, batch 0 belongs to processor 1"),
        (lambda row: row.__setitem__(slice(2, 4), []), "stage 0 does F; give it F and one"),
    ],
)
def test_impossible_schedules_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        validate(altered(build_schedule("gpipe", 2, 2, 2), 0, change))


def test_no_processors_and_foreign_costs():
    with pytest.raises(UserError, match="has no processors; give at least one"):
        validate(Schedule("empty", (), 1, 1))
    with pytest.raises(UserError, match="has 2 stages, but the costs are of 3"):
        simulate(build_schedule("gpipe", 2, 2, 2), uniform_costs(3), FlopDevice(1.0))


def test_two_processors_by_hand():
    """With f = b + w = 2 and a message of 6 bytes at 3 bytes/s and 1 s latency, 3 s on the way."""
    costs = uniform_costs(2, 2, 1, 1, message_bytes=6)
    line = simulate(build_schedule("1f1b", 2, 2, 2), costs, FlopDevice(1.0, Link(3.0, 1.0)))
    times = {(e.action.kind, e.action.stage, e.action.batch): (e.start, e.end) for e in line.events}
    assert times == {
        ("F", 0, 0): (0, 2),
        ("F", 0, 1): (2, 4),
        ("F", 1, 0): (5, 7),
        ("BW", 1, 0): (7, 9),
        ("F", 1, 1): (9, 11),
        ("BW", 1, 1): (11, 13),
        ("BW", 0, 0): (12, 14),
        ("BW", 0, 1): (16, 18),
    }
    assert line.makespan == 18
    assert line.busy == (8, 8)
    assert line.link_bytes == {(0, 1): 12, (1, 0): 12}
    assert line.bytes_per_batch == 12


def test_messages_of_one_link_follow_each_other():
    costs = uniform_costs(2, 1, 1, 1, message_bytes=10)
    line = simulate(build_schedule("gpipe", 2, 2, 3), costs, FlopDevice(1.0, Link(2.0)))
    starts = [e.start for e in line.events if e.action.kind == "F" and e.action.stage == 1]
    assert sorted(starts) == [6, 11, 16]


def test_period_of_an_unbalanced_pipeline_is_its_slowest_stage():
    slow = uniform_costs(1, 2, 2, 2).stages[0]
    costs = uniform_costs(4)
    costs = replace(costs, stages=(costs.stages[0], slow, *costs.stages[2:]))
    for name in ("pipedream", "layerpipe2"):
        line = simulate(build_schedule(name, 4, 4, 60), costs, FlopDevice(1.0))
        assert line.period == pytest.approx(6)
        assert line.steady_utilisation == pytest.approx(15 / 24)


def test_one_batch_has_a_period():
    assert simulate(build_schedule("pipedream", 2, 2, 1), uniform_costs(2), FlopDevice(1.0)).period == 6


def line_of_1f1b(time=1.0):
    return simulate(build_schedule("1f1b", 2, 2, 2), uniform_costs(2, time, time, time), FlopDevice(1.0))


def test_gantt_text():
    line = line_of_1f1b()
    assert line.gantt(1.0).splitlines() == [
        "time         0   1   2   3   4   5   6   7   8",
        "processor 0  F0  F1  .   .   BW0 -   .   BW1 -",
        "processor 1  .   F0  BW0 -   F1  BW1 -   .   .",
    ]
    assert line.gantt(1.0, until=3.0).splitlines()[:2] == ["time         0   1   2", "processor 0  F0  F1  ."]
    with pytest.raises(UserError, match="column width"):
        line.gantt(0)


def test_rounding_makes_no_extra_column():
    line = line_of_1f1b(0.1)
    assert line.gantt(0.1, 3 * 0.1) == line.gantt(0.1, 0.3)


def test_grid_names_stages_where_there_are_several():
    grid = build_schedule("interleaved", 4, 2, 2).grid(0, 3)
    assert grid.splitlines()[1].split() == ["processor", "0", "F0@0", "F1@0", "F0@2"]
