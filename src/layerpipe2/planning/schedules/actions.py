"""A schedule is data: for every processor, the list of actions that it does, in order; and what waits for what.

An action is a kind of work on one stage and one (micro- or mini-)batch:

    F   forward pass                      B1  first half of the activation gradient (rounded up)
    B   activation gradient               B2  second half, which LayerPipe may give to the layer below
    W   weight gradient and update        BW  the whole backward pass as one task: what comes out, comes out at its end
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from layerpipe2.delays import aligned

Kind = Literal["F", "B", "W", "BW", "B1", "B2"]
Task = tuple[Kind, int]
"""What is done every batch: kind and stage."""

KINDS: tuple[Kind, ...] = ("F", "B", "W", "BW", "B1", "B2")
BACKWARD: tuple[frozenset[Kind], ...] = (frozenset({"B", "W"}), frozenset({"BW"}), frozenset({"B1", "B2", "W"}))
"""The sets of kinds that make a whole backward pass of a stage."""


class Action(NamedTuple):
    """One step of a processor."""

    kind: Kind
    stage: int
    batch: int

    def __str__(self) -> str:
        return f"{self.kind} of stage {self.stage}, batch {self.batch}"


@dataclass(frozen=True)
class Schedule:
    """Actions of all processors. Check it with :func:`layerpipe2.planning.schedules.validate.validate`.

    Attributes:
        name: for messages and drawings.
        processors: per processor its actions in order.
        num_stages: K; each stage does its forward and backward pass once per batch.
        num_batches: number of (micro-)batches.
        batches_per_update: 1 where every batch updates the weights; more for synchronous schedules.
        compound: stages of several layers whose W needs what B computes inside the stage, where these two are apart.
        weight_lag: for a task away from its stage's W: how many batches before its own the update lies that it reads.
    """

    name: str
    processors: tuple[tuple[Action, ...], ...]
    num_stages: int
    num_batches: int
    batches_per_update: int = 1
    compound: frozenset[int] = frozenset()
    weight_lag: Mapping[Task, int] = field(default_factory=dict)

    @property
    def num_processors(self) -> int:
        """Number of processors P."""
        return len(self.processors)

    @cached_property
    def home(self) -> dict[Task, int]:
        """The processor of each task."""
        return {(a.kind, a.stage): p for p, actions in enumerate(self.processors) for a in actions}

    def delays(self) -> tuple[int, ...]:
        """Return per stage the largest number of updates that miss in the weights which a forward pass reads.

        In optimizer updates: batch ``t`` would read the weights after ``t // batches_per_update`` updates if nothing
        were pipelined. Where F and W share a processor their order tells; elsewhere the lag with which F is fed.
        """
        done = [0] * self.num_stages
        worst = [max(0, self.weight_lag.get(("F", k), 1) - 1) for k in range(self.num_stages)]
        for action in (a for actions in self.processors for a in actions):
            if action.kind in ("W", "BW"):
                done[action.stage] += 1
            elif action.kind == "F" and ("F", action.stage) not in self.weight_lag:
                late = action.batch // self.batches_per_update - done[action.stage] // self.batches_per_update
                worst[action.stage] = max(worst[action.stage], late)
        return tuple(worst)

    def grid(self, first: int = 0, last: int | None = None, mark: tuple[int, int] | None = None) -> str:
        """Show steps ``first`` to ``last``, a row per processor; ``mark`` (processor, step) is put in > <.

        ``F3`` is batch 3 of the processor's only stage, ``F3@5`` that of stage 5 where it has several.
        """
        longest = max((len(actions) for actions in self.processors), default=0)
        last = longest if last is None else min(last, longest)
        table = [["step", *map(str, range(first, last))]]
        for p, actions in enumerate(self.processors):
            several = len({a.stage for a in actions}) > 1
            cells = [f"{a.kind}{a.batch}" + f"@{a.stage}" * several for a in actions[first:last]]
            if mark and mark[0] == p:
                cells[mark[1] - first] = f">{cells[mark[1] - first]}<"
            table.append([f"processor {p}", *cells, *[""] * (last - first - len(cells))])
        return "\n".join(aligned(table, left=len(table[0])))


Payload = Literal["output", "gradient", "half gradient", "for B", "for W", "inner", "weights", "half weights"]


class Edge(NamedTuple):
    """The task needs task ``source`` of ``lag`` batches before (or nothing, in the first ``lag`` batches)."""

    source: Task
    lag: int
    payload: Payload


def edges(schedule: Schedule) -> dict[Task, tuple[Edge, ...]]:
    """Return the inputs of every task.

    F waits for F of the stage before. Every backward task waits for its stage's F (what it saved) and for the
    gradient from the stage after, in whichever parts that computes it. Where the weights are updated on another
    processor, each update travels to the tasks that read them.
    """
    return {task: tuple(_inputs(schedule, *task)) for task in schedule.home}


def _inputs(schedule: Schedule, kind: Kind, stage: int) -> list[Edge]:
    home, found = schedule.home, list[Edge]()
    if kind == "F" and stage > 0:
        found.append(Edge(("F", stage - 1), 0, "output"))
    if kind != "F":
        found.append(Edge(("F", stage), 0, "for W" if kind == "W" else "for B"))
        for part in ("B", "BW", "B1", "B2"):
            if (part, stage + 1) in home:
                found.append(Edge((part, stage + 1), 0, "half gradient" if part in ("B1", "B2") else "gradient"))
    if kind == "W" and stage in schedule.compound and home.get(("B", stage)) != home[kind, stage]:
        found.append(Edge(("B", stage), 0, "inner"))
    if (kind, stage) in schedule.weight_lag:
        lag = schedule.weight_lag[kind, stage]
        found.append(Edge(("W", stage), lag, "half weights" if kind in ("B1", "B2") else "weights"))
    return found
