"""Schedules from a placement by retiming: every processor does each of its tasks once per round.

A result that goes to another processor is used one round later (one register on the link), a result that stays is
used in the same round. Longest paths from the input then give every task its offset: in round ``r`` it works on batch
``r - offset``. With whole stages, one per processor, F of stage k has the offset k and B has 2 (K - 1) - k: LayerPipe2,
delay = offset(W) - offset(F) = 2 (K - 1 - k).
"""

from __future__ import annotations

from collections.abc import Mapping

from layerpipe2.planning.schedules.actions import Action, Kind, Schedule, Task
from layerpipe2.planning.schedules.builders import check_one_each
from layerpipe2.planning.schedules.edges import edges


def layerpipe2(stages: int, processors: int, batches: int) -> Schedule:
    """Every tick a forward pass, an activation gradient and a weight gradient of every stage; delays 2S."""
    check_one_each("layerpipe2", stages, processors, batches)
    kinds: tuple[Kind, ...] = ("F", "B", "W")
    home = {(kind, k): k for kind in kinds for k in range(stages)}
    return periodic("layerpipe2", home, stages, batches)


def periodic(
    name: str, home: Mapping[Task, int], stages: int, batches: int, compound: frozenset[int] = frozenset()
) -> Schedule:
    """The schedule of a placement (task -> processor); see the module's text."""
    order = _round_order(home)
    rounds = tuple(tuple(Action(*task, 0) for task in order if home[task] == p) for p in range(max(home.values()) + 1))
    once = Schedule(name, rounds, stages, 1, compound=compound)
    offset = offsets(once, order)
    lag = {}
    for task in order:
        kind, stage = task
        if kind != "W" and home[task] != home["W", stage]:
            # The update of batch j is done in round j + offset(W) and read one round later at the earliest; a task
            # never reads the update of its own batch.
            lag[task] = max(1, 1 + offset["W", stage] - offset[task])
    rows = tuple(tuple(_unrolled(row, offset, batches)) for row in rounds)
    return Schedule(name, rows, stages, batches, compound=compound, weight_lag=lag)


def offsets(schedule: Schedule, order: list[Task]) -> dict[Task, int]:
    """Rounds between the input of a batch and each task on it: the retiming values."""
    needs, home = edges(schedule), schedule.home
    found: dict[Task, int] = {}
    for task in order:
        arrivals = [found[edge.source] + (home[edge.source] != home[task]) for edge in needs[task]]
        found[task] = max(arrivals, default=0)
    return found


def _round_order(home: Mapping[Task, int]) -> list[Task]:
    """Forward in the order of stages, activation gradients back, weight gradients last: the gradient is sent early."""
    forward = sorted((t for t in home if t[0] == "F"), key=lambda t: t[1])
    activation = sorted((t for t in home if t[0] in ("B", "B1", "B2")), key=lambda t: (-t[1], t[0]))
    weight = sorted((t for t in home if t[0] == "W"), key=lambda t: -t[1])
    return [*forward, *activation, *weight]


def _unrolled(row: tuple[Action, ...], offset: Mapping[Task, int], batches: int) -> list[Action]:
    rounds = range(batches + max((offset[a.kind, a.stage] for a in row), default=0))
    shifted = (a._replace(batch=r - offset[a.kind, a.stage]) for r in rounds for a in row)
    return [action for action in shifted if 0 <= action.batch < batches]
