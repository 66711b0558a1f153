"""What a simulated schedule did: makespan, steady-state period, utilisation, bytes, stored mini-batches, Gantt text."""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from layerpipe2.errors import UserError
from layerpipe2.planning.schedules.actions import Action, Schedule


class Event(NamedTuple):
    """One action on its processor, from ``start`` to ``end`` in s."""

    processor: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A run of a schedule.

    Attributes:
        schedule: what was run.
        events: all actions, in the order in which their starts became known.
        link_bytes: bytes sent per ordered pair of processors.
    """

    schedule: Schedule
    events: tuple[Event, ...]
    link_bytes: dict[tuple[int, int], float]

    @property
    def makespan(self) -> float:
        """End of the last action, in s."""
        return max(event.end for event in self.events)

    @property
    def busy(self) -> tuple[float, ...]:
        """Computing time per processor, in s."""
        total = [0.0] * self.schedule.num_processors
        for event in self.events:
            total[event.processor] += event.end - event.start
        return tuple(total)

    @property
    def period(self) -> float:
        """Time per batch in the steady state, in s.

        The time between the ends of two batches, over their number: the batches that end the first and the third
        quarter of the updates, so that neither filling nor draining counts (their quarters should be several times
        as long as the pipeline). The mean over the whole run where there are fewer than three updates.
        """
        step, count = self.schedule.batches_per_update, self.schedule.num_batches
        quarter = max(1, count // step // 4)
        first, last = quarter * step, (count // step - quarter) * step
        if last <= first:
            return self.makespan / count
        done = [max(e.end for e in self.events if e.action.batch < batches) for batches in (first, last)]
        return (done[1] - done[0]) / (last - first)

    @property
    def steady_utilisation(self) -> float:
        """Mean share of the period in which the processors compute: no filling, no final draining."""
        per_batch = sum(self.busy) / self.schedule.num_batches
        return per_batch / (self.schedule.num_processors * self.period) if self.period else 0.0

    @property
    def bytes_per_batch(self) -> float:
        """Bytes over all links per batch."""
        return sum(self.link_bytes.values()) / self.schedule.num_batches

    def in_flight(self) -> tuple[int, ...]:
        """Return per stage the largest number of batches whose activations are stored at one time.

        Stored from the start of F to the end of the last backward task.
        """
        start, end = dict[tuple[int, int], float](), defaultdict[tuple[int, int], float](float)
        for event in self.events:
            key = event.action.stage, event.action.batch
            if event.action.kind == "F":
                start[key] = event.start
            end[key] = max(end[key], event.end)
        moves: list[list[tuple[float, int]]] = [[] for _ in range(self.schedule.num_stages)]
        for times, change in ((start, 1), (end, -1)):
            for (stage, _), time in times.items():
                moves[stage].append((time, change))
        return tuple(max(accumulate(change for _, change in sorted(of))) for of in moves)

    def gantt(self, unit: float, until: float | None = None) -> str:
        """Draw the run: a row of times, a row per processor, a column per ``unit`` s, ``.`` where it waits.

        An action fills its columns with its kind and batch, then ``-``; what is shorter than a column may be hidden.

        Raises:
            UserError: if ``unit`` is not positive.
        """
        if not unit > 0:
            raise UserError(f"column width of the Gantt chart is {unit!r} s; give a time above 0")
        # A whole number of columns may seem longer by rounding.
        columns = max(1, math.ceil((self.makespan if until is None else until) / unit - 1e-9))
        rows = [["."] * columns for _ in range(self.schedule.num_processors)]
        for p, action, start, end in self.events:
            first, last = round(start / unit), round(end / unit)
            for column in range(first, min(last, len(rows[p]))):
                rows[p][column] = f"{action.kind}{action.batch}" if column == first else "-"
        width = max((len(cell) for row in rows for cell in row), default=1)
        lines = [_times(unit, columns, width), *(" ".join(cell.ljust(width) for cell in row) for row in rows)]
        names = ["time", *(f"processor {p}" for p in range(len(rows)))]
        room = len(names[-1])
        return "\n".join(f"{name:{room}}  {line}".rstrip() for name, line in zip(names, lines, strict=True))


def _times(unit: float, columns: int, width: int) -> str:
    """Choose when columns of ``width`` characters start, a blank apart: all, or every second, third .. if need be."""
    labels = [f"{column * unit:.4g}" for column in range(columns)]
    every = max((-(-(len(label) + 1) // (width + 1)) for label in labels), default=1)
    return "".join(label.ljust(every * (width + 1)) for label in labels[::every])
