"""Event-driven simulation of a schedule: when each action runs, given the costs of its stage and a device.

Every processor does its actions in the given order, each as soon as the one before is done and its inputs have
arrived. A result that another processor needs is sent when its action ends, once to each processor that needs it,
over the link of this ordered pair: messages of one link follow each other, computing goes on meanwhile.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable

from layerpipe2.errors import UserError
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import Device
from layerpipe2.planning.schedules.actions import Action, Kind, Payload, Schedule, Task, edges
from layerpipe2.planning.schedules.timeline import Event, Timeline
from layerpipe2.planning.schedules.validate import validate
from layerpipe2.planning.work import StageWork, Work

_WORK: dict[Kind, Callable[[StageWork], Work]] = {
    "F": lambda s: s.forward,
    "B": lambda s: s.activation,
    "W": lambda s: s.weight,
    "BW": lambda s: s.activation + s.weight,
    "B1": lambda s: s.activation.halves()[0],
    "B2": lambda s: s.activation.halves()[1],
}


def task_seconds(kind: Kind, stage: StageWork, device: Device) -> float:
    """Return the time in s of a task for one batch."""
    return device.seconds(_WORK[kind](stage))


_BYTES: dict[Payload, Callable[[StageWork], float]] = {
    "output": lambda s: s.output_bytes,
    "gradient": lambda s: s.input_bytes,
    "half gradient": lambda s: s.input_bytes / 2,
    "for B": lambda s: 0 if s.single_layer else s.saved_bytes,
    "for W": lambda s: s.input_bytes if s.single_layer else s.saved_bytes,
    "inner": lambda s: s.saved_bytes,
    "weights": lambda s: s.parameter_bytes,
    "half weights": lambda s: s.parameter_bytes / 2,
}
"""Sizes of messages, from those of the sending stage.

A single layer's activation gradient needs of its own forward pass only the sign mask of the nonlinearity, which its
forward processor can apply (0 bytes); its weight gradient needs the input. Several layers need all that was saved, and
their weight gradients the inner gradients too, taken to be as large (an upper bound).
"""


def simulate(schedule: Schedule, costs: Costs, device: Device) -> Timeline:
    """Run ``schedule`` with the work and the sizes of ``costs`` on processors of kind ``device``.

    Raises:
        ScheduleError: if the schedule cannot run.
        UserError: if the costs are those of another number of stages.
    """
    validate(schedule)
    if len(costs.stages) != schedule.num_stages:
        what = f"schedule '{schedule.name}' has {schedule.num_stages} stages, but the costs are of {len(costs.stages)}"
        raise UserError(f"{what}; build both for the same stages")
    return _Run(schedule, costs, device).run()


class _Run:
    def __init__(self, schedule: Schedule, costs: Costs, device: Device) -> None:
        self.schedule, self.device = schedule, device
        self.seconds = {t: task_seconds(t[0], costs.stages[t[1]], device) for t in schedule.home}
        # Task -> consumers of its result: after how many batches, what they take (it tells messages apart), its bytes.
        self.uses: dict[Task, list[tuple[Task, int, Payload, float]]] = defaultdict(list)
        needs = edges(schedule)
        for task, inputs in needs.items():
            for source, lag, payload in inputs:
                self.uses[source].append((task, lag, payload, _BYTES[payload](costs.stages[source[1]])))
        self.missing = {a: sum(a.batch >= e.lag for e in needs[a[:2]]) for p in schedule.processors for a in p}
        self.ready: dict[Action, float] = defaultdict(float)
        self.position = [0] * schedule.num_processors
        self.free: list[float | None] = [0.0] * schedule.num_processors
        self.link_free: dict[tuple[int, int], float] = defaultdict(float)
        self.link_bytes: dict[tuple[int, int], float] = defaultdict(float)
        self.events: list[Event] = []
        self.queue: list[tuple[float, int, Action]] = []

    def run(self) -> Timeline:
        for p in range(self.schedule.num_processors):
            self._start(p)
        while self.queue:
            now, p, action = heapq.heappop(self.queue)
            self.free[p] = now
            self._start(p)
            self._deliver(p, action, now)
        return Timeline(self.schedule, tuple(self.events), dict(self.link_bytes))

    def _start(self, p: int) -> None:
        """Start the processor's next action if it is idle and all inputs are on their way: the start is then known."""
        actions, idle_since = self.schedule.processors[p], self.free[p]
        if idle_since is None or self.position[p] == len(actions) or self.missing[actions[self.position[p]]]:
            return
        action = actions[self.position[p]]
        start = max(idle_since, self.ready[action])
        end = start + self.seconds[action.kind, action.stage]
        self.position[p] += 1
        self.free[p] = None
        self.events.append(Event(p, action, start, end))
        heapq.heappush(self.queue, (end, p, action))

    def _deliver(self, p: int, action: Action, now: float) -> None:
        sent: dict[tuple[int, str], float] = {}
        for task, lag, payload, size in self.uses[action.kind, action.stage]:
            target, processor = Action(*task, action.batch + lag), self.schedule.home[task]
            if target not in self.missing:
                continue
            arrival = now
            if processor != p and size > 0:
                if (processor, payload) not in sent:
                    sent[processor, payload] = self._send(p, processor, size, now)
                arrival = sent[processor, payload]
            self.ready[target] = max(self.ready[target], arrival)
            self.missing[target] -= 1
            self._start(processor)

    def _send(self, source: int, target: int, size: float, now: float) -> float:
        """Put a message on its link and return when it arrives."""
        link = source, target
        self.link_free[link] = max(self.link_free[link], now) + self.device.link.occupation(size)
        self.link_bytes[link] += size
        return self.link_free[link] + self.device.link.latency
