"""The task graph of one mini-batch, which all mini-batches share: what every task takes from which other.

A task is a kind (F, B, W), a unit and a run of time steps. F goes forward in time (the membrane), B and W backward (the
adjoint of the membrane is the same filter backwards in time; the loss is that of all steps, so B and W of the last unit
wait for its last F):

    F  spikes of the unit before; its own membrane after the steps before; the weights
    B  gradient of the unit after; its own adjoint after the later steps; what F saved; the weights that F read
    W  gradient of the unit after; its own sum and adjoint after the later steps; what F saved; F's input spikes

The sum of W over all steps, on the master weights, is the update; updates of a unit follow each other. F and B of
mini-batch t read the weights of unit k after the update with mini-batch t - 1 - d_k: that is delayed-gradient training
with exact stashing, and the order in which processors work cannot change what is computed. The first unit's input needs
no gradient, and the input images are everywhere. The neuron's filter backwards runs wherever a gradient task runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

from layerpipe2.delays import Delays
from layerpipe2.errors import integer
from layerpipe2.planning.spikepipe.networks import KINDS, Setting, Unit


class Task(NamedTuple):
    """One task of every mini-batch; ``chunk`` counts runs of time steps from the first."""

    kind: str
    unit: int
    chunk: int


class Input(NamedTuple):
    """What a task takes: from which task (by number) of how many mini-batches before, what, and how many bytes."""

    source: int
    lag: int
    payload: int
    size: float


SPIKES, SAVED, STATE, GRADIENT, WEIGHTS = range(5)
"""Payloads: a task sends each of its own at most once to a processor. STATE: membrane, adjoint, sum of W."""


class TaskGraph(NamedTuple):
    """Tasks in an order that respects their inputs of the same mini-batch, with times in s and inputs."""

    tasks: tuple[Task, ...]
    seconds: tuple[float, ...]
    inputs: tuple[tuple[Input, ...], ...]
    delays: tuple[int, ...]


def task_graph(units: Sequence[Unit], setting: Setting, steps_per_task: int, delays: Delays) -> TaskGraph:
    """Return the graph of a network.

    Args:
        units: input side first.
        setting: array, sizes.
        steps_per_task: time steps that a task does at once: 1 is the finest.
        delays: in updates, per unit.

    Raises:
        UserError: on steps per task out of range.
    """
    total = setting.time_steps
    integer(steps_per_task, "number of time steps per task", 1, total)
    chunks = [min(steps_per_task, total - start) for start in range(0, total, steps_per_task)]
    count, last = len(units), len(chunks) - 1
    forward = [Task("F", k, c) for c in range(last + 1) for k in range(count)]
    backward = [Task(kind, k, c) for c in range(last, -1, -1) for k in reversed(range(count)) for kind in "BW"]
    tasks = (*forward, *(task for task in backward if task[:2] != ("B", 0)))
    number: dict[tuple[str, int, int], int] = {task: j for j, task in enumerate(tasks)}
    times = {
        (kind, k, s): setting.seconds(kind, units[k], s) for kind in KINDS for k in range(count) for s in set(chunks)
    }

    def inputs(task: Task) -> list[Input]:
        kind, k, c = task
        unit, steps = units[k], chunks[c]
        weights = Input(number["W", k, 0], delays.per_stage[k] + 1, WEIGHTS, unit.parameters * setting.bits / 8)
        spikes = Input(number["F", k - 1, c], 0, SPIKES, setting.message(unit.inputs, steps, 1)) if k else None
        if kind == "F":
            before = Input(number["F", k, c - 1], 0, STATE, setting.message(unit.neurons)) if c else None
            return [one for one in (weights, spikes, before) if one]
        found = [Input(number["F", k, c], 0, SAVED, setting.message(unit.neurons, steps))]
        if k + 1 < count:
            found.append(Input(number["B", k + 1, c], 0, GRADIENT, setting.message(unit.outputs, steps)))
        elif c == last or kind == "B":
            found.append(Input(number["F", k, last], 0, STATE, setting.message(unit.neurons)))
        if kind == "B":
            state = setting.message(unit.neurons)
            return [weights, *found, *([Input(number["B", k, c + 1], 0, STATE, state)] if c < last else [])]
        found += [spikes] if spikes else []
        if c == last:
            return [*found, weights._replace(lag=1)]
        return [*found, Input(number["W", k, c + 1], 0, STATE, setting.message(unit.neurons) + weights.size)]

    seconds = tuple(times[task.kind, task.unit, chunks[task.chunk]] for task in tasks)
    return TaskGraph(tasks, seconds, tuple(tuple(inputs(task)) for task in tasks), delays.per_stage)
