"""Check a schedule: complete, each task in one place, and in an order that can run."""

from collections import Counter

from layerpipe2.errors import UserError
from layerpipe2.planning.schedules.actions import BACKWARD, KINDS, Action, Edge, Schedule, Task, edges

_AROUND = 5
"""Columns of the grid that an error shows on each side of the bad step."""


class ScheduleError(UserError):
    """An impossible schedule: one line that says what, where and the remedy, then the grid with the step marked."""

    def __init__(self, schedule: Schedule, processor: int, step: int, problem: str) -> None:
        grid = schedule.grid(max(0, step - _AROUND), step + _AROUND + 1, (processor, step))
        super().__init__(f"schedule '{schedule.name}', processor {processor}, step {step}: {problem}\n{grid}")


def validate(schedule: Schedule) -> None:
    """Refuse what cannot be run or is not a whole training step per batch and stage.

    Raises:
        ScheduleError: naming processor, step, action and remedy.
        UserError: if there is no processor, or an action is missing.
    """
    if not schedule.processors:
        raise UserError(f"schedule '{schedule.name}' has no processors; give at least one")
    _check_actions(schedule)
    _check_complete(schedule)
    _check_order(schedule)


def _check_actions(schedule: Schedule) -> None:
    seen: set[Action] = set()
    count = Counter(((a.kind, a.stage), p) for p, actions in enumerate(schedule.processors) for a in actions)
    home = {task: p for (task, p), _ in reversed(count.most_common())}  # the processor with most of a task's actions
    for p, actions in enumerate(schedule.processors):
        for step, action in enumerate(actions):
            problem = _range_problem(schedule, action)
            other = home[action.kind, action.stage]
            if action in seen:
                problem = f"{action} is done twice; remove one"
            elif not problem and other != p:
                problem = f"{action} belongs to processor {other}, which does the others of its kind; move it there"
            if problem:
                raise ScheduleError(schedule, p, step, problem)
            seen.add(action)


def _range_problem(schedule: Schedule, action: Action) -> str:
    if action.kind not in KINDS:
        return f"unknown kind {action.kind!r}; choose one of {', '.join(KINDS)}"
    if not 0 <= action.stage < schedule.num_stages:
        return f"{action} is of no stage; give a stage from 0 to {schedule.num_stages - 1}"
    if not 0 <= action.batch < schedule.num_batches:
        return f"{action} is of no batch; give a batch from 0 to {schedule.num_batches - 1}"
    return ""


def _check_complete(schedule: Schedule) -> None:
    count = Counter((a.kind, a.stage) for actions in schedule.processors for a in actions)
    for stage in range(schedule.num_stages):
        kinds = frozenset(kind for kind, s in count if s == stage)
        if "F" not in kinds or kinds - {"F"} not in BACKWARD:
            what = f"schedule '{schedule.name}': stage {stage} does {', '.join(sorted(kinds)) or 'nothing'}"
            raise UserError(f"{what}; give it F and one of: B and W, BW, or B1 and B2 and W")
        for kind in kinds:
            if count[kind, stage] != schedule.num_batches:
                done = f"{count[kind, stage]} of {schedule.num_batches} batches"
                what = f"schedule '{schedule.name}': stage {stage} does {kind} for {done}"
                raise UserError(f"{what}; add the missing ones")


def _check_order(schedule: Schedule) -> None:
    needs, done = edges(schedule), set[Action]()
    position = [0] * schedule.num_processors
    moved = True
    while moved:
        moved = False
        for p, actions in enumerate(schedule.processors):
            while position[p] < len(actions) and not _missing(needs, actions[position[p]], done):
                done.add(actions[position[p]])
                position[p] += 1
                moved = True
    stuck = [p for p, actions in enumerate(schedule.processors) if position[p] < len(actions)]
    if not stuck:
        return
    where = {action: (p, i) for p, actions in enumerate(schedule.processors) for i, action in enumerate(actions)}
    heads = {p: schedule.processors[p][position[p]] for p in stuck}
    lacks = {p: _missing(needs, head, done)[0] for p, head in heads.items()}
    # In a circle of processors that wait for each other, the one furthest ahead in the batches is the likely culprit.
    p = max(stuck, key=lambda p: (where[lacks[p]][0] == p, heads[p].batch))
    action, missing = heads[p], lacks[p]
    other, step = where[missing]
    problem = f"{action} waits for {missing}, which is step {step} of processor {other} and can't have run by then"
    raise ScheduleError(schedule, p, position[p], f"{problem}; put the one that is waited for earlier")


def _missing(needs: dict[Task, tuple[Edge, ...]], action: Action, done: set[Action]) -> list[Action]:
    sources = (Action(*task, action.batch - lag) for task, lag, _ in needs[action.kind, action.stage])
    return [source for source in sources if source.batch >= 0 and source not in done]
