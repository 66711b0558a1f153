"""Schedules with whole stages per processor: GPipe, 1F1B, interleaved 1F1B, PipeDream, zero-bubble H1.

Sources: GPipe (Huang et al. 2019, arXiv 1811.06965); PipeDream (Narayanan et al. 2019, doi 10.1145/3341301.3359646);
interleaved 1F1B (Narayanan et al. 2021, arXiv 2104.04473); ZB-H1 (Qi et al. 2023, arXiv 2401.10241, section 2.2).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from layerpipe2.errors import UserError, integer
from layerpipe2.planning.schedules.actions import Action, Kind, Schedule

_MOST = 100_000
"""Stages times batches whose actions are listed in seconds."""


def check_counts(name: str, stages: int, processors: int, batches: int) -> None:
    """Refuse counts below 1, and more stages times batches than can be listed.

    Raises:
        UserError: naming the schedule and the count.
    """
    for what, count in (("stages", stages), ("processors", processors), ("batches", batches)):
        integer(count, f"schedule '{name}': number of {what}", 1)
    integer(stages * batches, f"schedule '{name}': stages times batches", 1, _MOST)


def check_one_each(name: str, stages: int, processors: int, batches: int) -> None:
    """Refuse anything but one stage per processor."""
    check_counts(name, stages, processors, batches)
    if processors > stages:
        what = f"schedule '{name}': {processors} processors, but only {stages} stages"
        raise UserError(f"{what}; cut the network into more stages or give at most {stages} processors")
    if processors < stages:
        what = f"schedule '{name}': {stages} stages on {processors} processors"
        raise UserError(f"{what}; group the units into {processors} stages, or choose 'interleaved'")


def gpipe(stages: int, processors: int, batches: int) -> Schedule:
    """Do all forward passes, then all backward passes in reverse order, then one update."""
    check_one_each("gpipe", stages, processors, batches)
    rows = tuple(
        tuple(Action("F", p, m) for m in range(batches)) + tuple(Action("BW", p, m) for m in reversed(range(batches)))
        for p in range(processors)
    )
    return Schedule("gpipe", rows, stages, batches, batches)


def one_f_one_b(stages: int, processors: int, batches: int) -> Schedule:
    """Do ``P - 1 - p`` forward passes ahead, then forward and backward by turns, then one update (1F1B)."""
    check_one_each("1f1b", stages, processors, batches)
    rows = tuple(_by_turns(p, processors - 1 - p, batches) for p in range(processors))
    return Schedule("1f1b", rows, stages, batches, batches)


def pipedream(stages: int, processors: int, batches: int) -> Schedule:
    """Do 1F1B without synchronisation: the same order, an update after every mini-batch; delays S."""
    check_one_each("pipedream", stages, processors, batches)
    return replace(one_f_one_b(stages, processors, batches), name="pipedream", batches_per_update=1)


def _by_turns(stage: int, ahead: int, batches: int) -> tuple[Action, ...]:
    ahead = min(ahead, batches)
    row = [Action("F", stage, m) for m in range(ahead)]
    for m in range(batches):
        if m + ahead < batches:
            row.append(Action("F", stage, m + ahead))
        row.append(Action("BW", stage, m))
    return tuple(row)


def zb_h1(stages: int, processors: int, batches: int) -> Schedule:
    """Do zero-bubble H1: 1F1B with the backward pass cut in two, W of processor p put off by p mini-batches.

    B sends the gradient on at once, and the W that were put off fill the gaps of draining; with equal times of F, B
    and W a third of 1F1B's idle time is left, and no stage holds more mini-batches than P.
    """
    check_one_each("zb-h1", stages, processors, batches)
    one_by_one = one_f_one_b(stages, processors, batches).processors
    rows = tuple(tuple(_weights_later(p, row, batches)) for p, row in enumerate(one_by_one))
    return Schedule("zb-h1", rows, stages, batches, batches)


def _weights_later(stage: int, row: Iterable[Action], batches: int) -> Iterator[Action]:
    """Cut the backward passes of a row of 1F1B in two."""
    for action in row:
        yield action if action.kind == "F" else action._replace(kind="B")
        if action.kind != "F" and action.batch >= stage:
            yield Action("W", stage, action.batch - stage)
    yield from (Action("W", stage, m) for m in range(max(0, batches - stage), batches))


def interleaved(stages: int, processors: int, batches: int) -> Schedule:
    """Do interleaved 1F1B: stage s on processor s mod P; each processor has stages / P chunks of the network.

    Raises:
        UserError: unless stages and batches are multiples of processors.
    """
    check_counts("interleaved", stages, processors, batches)
    if processors > stages:
        check_one_each("interleaved", stages, processors, batches)
    for what, count in (("stages", stages), ("batches", batches)):
        if count % processors:
            given = f"schedule 'interleaved': {count} {what} on {processors} processors"
            raise UserError(f"{given}; give a multiple of {processors}")
    rows = tuple(tuple(_chunks_by_turns(p, processors, stages // processors, batches)) for p in range(processors))
    return Schedule("interleaved", rows, stages, batches, batches)


def _chunks_by_turns(p: int, processors: int, chunks: int, batches: int) -> Iterator[Action]:
    total = chunks * batches
    ahead = min(total, (chunks - 1) * processors + (1 if chunks == 1 else 2) * (processors - 1 - p))

    def step(kind: Kind, i: int) -> Action:
        # Groups of P batches pass a processor's chunks one after the other; backward in reverse.
        chunk = i // processors % chunks
        chunk = chunk if kind == "F" else chunks - 1 - chunk
        return Action(kind, chunk * processors + p, i // (processors * chunks) * processors + i % processors)

    yield from (step("F", i) for i in range(ahead))
    for i in range(total):
        if i + ahead < total:
            yield step("F", i + ahead)
        yield step("BW", i)


def repeat(schedule: Schedule, updates: int) -> Schedule:
    """Repeat a synchronous schedule for several updates: each processor goes on when it has finished its part.

    Raises:
        UserError: if ``updates`` is not an integer of at least 1.
    """
    check_counts(schedule.name, schedule.num_stages, schedule.num_processors, updates)
    count, rows = schedule.num_batches, schedule.processors
    rows = tuple(tuple(a._replace(batch=a.batch + u * count) for u in range(updates) for a in row) for row in rows)
    return replace(schedule, processors=rows, num_batches=updates * count)
