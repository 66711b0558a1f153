"""A list scheduler: whenever a processor is idle, it starts the most urgent of the tasks that are ready there.

*Urgent* is the longest path of computing time from a task to the end of the run, over all mini-batches. *Placement* is
given (a processor per task of the graph), or free: as soon as all tasks that a task waits for are done, it goes to the
processor where it would end earliest, after what waits there already and with the messages that it would need. The
processors that are tried are those that hold an input and the one that is free first: any other ends no earlier, but
for what an earlier message has left there. *Together* is free for the first task of a unit and mini-batch, and the
others follow it there, so that membranes never travel.

Messages of a link (an ordered pair of processors) follow each other in the order in which their takers are placed. The
schedule is made beforehand, so a message may leave as soon as its sender is done, not only when its taker is placed.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError, integer, shown
from layerpipe2.planning.devices import Link
from layerpipe2.planning.spikepipe.tasks import TaskGraph

_PAYLOADS = 8
MOST_TASKS = 2_000_000
"""Tasks that are scheduled at most: some tens of seconds, and a GB."""


class Plan(NamedTuple):
    """When and where everything happens: task j of mini-batch t has number t len(graph.tasks) + j.

    Attributes:
        graph, processors, batches, link: what was scheduled.
        place, start, end: of every task (n,): processor, and s.
        messages: rows of task number, payload, sender, receiver (m, 4).
        sent: bytes, start and end on the link in s (m, 3); the message arrives a latency after its end.
    """

    graph: TaskGraph
    processors: int
    batches: int
    link: Link
    place: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    messages: NDArray[np.int64]
    sent: NDArray[np.float64]


def urgency(graph: TaskGraph, batches: int) -> list[float]:
    """Return the longest path from each task's start to the end of the run, in s: (batches tasks,)."""
    count = len(graph.tasks)
    after = [0.0] * (batches * count)
    steps = [(j, graph.seconds[j], [(i.source - i.lag * count) for i in graph.inputs[j]]) for j in range(count)][::-1]
    for first in range((batches - 1) * count, -1, -count):
        for j, seconds, sources in steps:
            path = after[first + j] = after[first + j] + seconds
            for source in sources:
                if first + source >= 0 and after[first + source] < path:
                    after[first + source] = path
    return after


def list_schedule(
    graph: TaskGraph,
    batches: int,
    processors: int,
    link: Link | None = None,
    home: Sequence[int] | None = None,
    *,
    together: bool = False,
) -> Plan:
    """Schedule the tasks of all mini-batches.

    Args:
        graph: tasks of a mini-batch.
        batches: number of mini-batches.
        processors: number of processors.
        link: between each two of them; by default messages take no time.
        home: processor of every task of the graph; by default placement is free.
        together: keep the tasks of a unit and mini-batch on one processor, if placement is free.

    Raises:
        UserError: on counts below 1, more tasks than :data:`MOST_TASKS`, or homes that are not on the processors.
    """
    integer(processors, "number of processors", 1)
    integer(batches, "number of mini-batches", 1)
    count = len(graph.tasks)
    integer(batches * count, "mini-batches times tasks", 1, MOST_TASKS)
    if home is not None and (len(home) != count or not all(0 <= p < processors for p in home)):
        raise UserError(f"homes are {shown(home)}; give each of {count} tasks a processor below {processors}")
    scheduler = _Scheduler(graph, batches, processors, link or Link(), home)
    if together:
        first = {task.unit: j for j, task in reversed(list(enumerate(graph.tasks)))}
        scheduler.leader = [first[task.unit] for task in graph.tasks]
    return scheduler.run()


class _Scheduler:
    def __init__(self, graph: TaskGraph, batches: int, processors: int, link: Link, home: Sequence[int] | None) -> None:
        self.graph, self.batches, self.processors, self.link, self.home = graph, batches, processors, link, home
        self.count = len(graph.tasks)
        self.leader = list(range(self.count))  # the task of the graph that each task follows to its processor
        size = batches * self.count
        self.urgency = urgency(graph, batches)
        self.start, self.end, self.place = [0.0] * size, [0.0] * size, [-1] * size
        # Per task of the graph: (offset of the source's number, payload, bytes, time on the link).
        self.needs = [
            [(i.source - i.lag * self.count, i.payload, i.size, link.occupation(i.size)) for i in of]
            for of in graph.inputs
        ]
        self.takers: list[list[int]] = [[] for _ in range(self.count)]
        for j, of in enumerate(graph.inputs):
            for one in of:
                self.takers[one.source].append(j + one.lag * self.count)
        self.missing = [sum(m >= i.lag for i in of) for m in range(batches) for of in graph.inputs]
        self.link_free = [0.0] * processors**2
        self.arrived: dict[int, float] = {}
        self.waiting = [0.0] * processors  # computing time of what was placed there and has not started
        self.free = [0.0] * processors
        self.ready: list[list[tuple[float, int]]] = [[] for _ in range(processors)]
        # (time, task number) at which it ends, or (time, ~task number) at which its messages are there.
        self.events: list[tuple[float, int]] = []
        self.messages: list[tuple[int, int, int, int]] = []
        self.sent: list[tuple[float, float, float]] = []

    def run(self) -> Plan:
        now, placed = 0.0, [task for task, missing in enumerate(self.missing) if not missing]
        while True:
            for task in sorted(placed, key=lambda task: -self.urgency[task]):
                there = self._place(task, now)
                if there > now:
                    heapq.heappush(self.events, (there, ~task))
                else:
                    heapq.heappush(self.ready[self.place[task]], (-self.urgency[task], task))
            for p in range(self.processors):
                if self.ready[p] and self.free[p] <= now:
                    self._start(p, now)
            if not self.events:
                return self._plan()
            now, placed = self.events[0][0], []
            while self.events and self.events[0][0] == now:
                task = heapq.heappop(self.events)[1]
                if task < 0:
                    heapq.heappush(self.ready[self.place[~task]], (-self.urgency[~task], ~task))
                else:
                    placed += self._freed(task)

    def _start(self, p: int, now: float) -> None:
        task = heapq.heappop(self.ready[p])[1]
        seconds = self.graph.seconds[task % self.count]
        self.start[task], self.end[task] = now, now + seconds
        self.free[p] = now + seconds
        self.waiting[p] -= seconds
        heapq.heappush(self.events, (now + seconds, task))

    def _freed(self, task: int) -> list[int]:
        """Return the tasks for which this one was the last that they waited for."""
        j = task % self.count
        first, found = task - j, []
        for taker in self.takers[j]:
            if first + taker < len(self.missing):
                self.missing[first + taker] -= 1
                if not self.missing[first + taker]:
                    found.append(first + taker)
        return found

    def _place(self, task: int, now: float) -> float:
        """Choose the processor, send what is not there yet, and return when the last message arrives."""
        j = task % self.count
        first, needs = task - j, self.needs[j]
        if self.home is not None:
            p = self.home[j]
        elif self.leader[j] != j:
            p = self.place[first + self.leader[j]]
        else:
            p = self._earliest(first, needs, now)
        self.place[task] = p
        self.waiting[p] += self.graph.seconds[j]
        there = 0.0
        for offset, payload, size, occupied in needs:
            source = first + offset
            if source < 0 or not size or self.place[source] == p:
                continue
            key = (source * _PAYLOADS + payload) * self.processors + p
            if key not in self.arrived:
                sender = self.place[source]
                begin = max(self.end[source], self.link_free[sender * self.processors + p])
                self.link_free[sender * self.processors + p] = begin + occupied
                self.arrived[key] = begin + occupied + self.link.latency
                self.messages.append((source, payload, sender, p))
                self.sent.append((size, begin, begin + occupied))
            there = max(there, self.arrived[key])
        return there

    def _earliest(self, first: int, needs: list[tuple[int, int, float, float]], now: float) -> int:
        """Choose the processor where the task ends first; of several, the one that holds more of its input."""
        free, waiting, count = self.free, self.waiting, self.processors
        backlog = [(free[p] if free[p] > now else now) + waiting[p] for p in range(count)]
        given = [
            (first + offset, self.place[first + offset], payload, size, occupied)
            for offset, payload, size, occupied in needs
            if first + offset >= 0 and size
        ]
        tried = {source[1] for source in given}
        tried.add(backlog.index(min(backlog)))
        best, most, chosen = float("inf"), 0.0, -1
        for p in tried:
            there, held = backlog[p], 0.0
            if there > best:
                continue
            for source, sender, payload, size, occupied in given:
                arrival = 0.0 if sender == p else self.arrived.get((source * _PAYLOADS + payload) * count + p)
                if arrival is None:
                    begin, after = self.end[source], self.link_free[sender * count + p]
                    arrival = (begin if begin > after else after) + occupied + self.link.latency
                else:
                    held += size
                if arrival > there:
                    there = arrival
            if there < best or (there == best and (held, -p) > (most, -chosen)):
                best, most, chosen = there, held, p
        return chosen

    def _plan(self) -> Plan:
        messages, sent = np.array(self.messages, dtype=np.int64).reshape(-1, 4), np.array(self.sent).reshape(-1, 3)
        times = np.array(self.start), np.array(self.end)
        return Plan(self.graph, self.processors, self.batches, self.link, np.array(self.place), *times, messages, sent)
