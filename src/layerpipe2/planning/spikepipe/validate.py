"""Check a plan against its task graph, by other means than it was made: all at once, on arrays."""

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError
from layerpipe2.planning.spikepipe.scheduler import Plan

_PAYLOADS = 8


def check(plan: Plan) -> None:
    """Refuse a plan in which something can't be.

    Every task has its time on one of the processors, which does one thing at once; a task starts when all its inputs
    are done and, from other processors, have arrived; messages leave after their task has ended, take their time, and
    do not share a link.

    Raises:
        UserError: naming the first task or message that can't be so.
    """
    seconds = np.tile(plan.graph.seconds, plan.batches)
    _refuse(plan, (plan.place < 0) | (plan.place >= plan.processors), "is on no processor")
    _refuse(plan, (plan.start < 0) | (plan.end != plan.start + seconds), "does not take its time")
    _refuse(plan, _overlaps(plan.place, plan.start, plan.end), "starts before its processor is free")
    keys = _check_messages(plan)
    order = np.argsort(keys)
    for j, inputs in enumerate(plan.graph.inputs):
        for source, lag, payload, size in inputs:
            task = np.arange(lag, plan.batches) * len(plan.graph.tasks) + j
            given = task - j + source - lag * len(plan.graph.tasks)
            if not len(task):
                continue
            there = plan.end[given]  # a copy
            away = (plan.place[given] != plan.place[task]) & (size > 0)
            if away.any():
                key = (given[away] * _PAYLOADS + payload) * plan.processors + plan.place[task[away]]
                found = order[np.searchsorted(keys, key, sorter=order).clip(max=len(keys) - 1)] if len(keys) else 0
                sent = (keys[found] == key) & (plan.sent[found, 0] == size) if len(keys) else np.zeros(len(key), bool)
                _refuse(plan, ~sent, "is not sent one of its inputs", task[away])
                there[away] = plan.sent[found, 2] + plan.link.latency
            _refuse(plan, plan.start[task] < there, "starts before its inputs are there", task)


def _check_messages(plan: Plan) -> NDArray[np.int64]:
    """Check all messages; return a number for each sender's task, payload and receiver."""
    task, payload, sender, receiver = plan.messages.T
    size, start, end = plan.sent.T
    _refuse(plan, plan.place[task] != sender, "is sent from elsewhere", task)
    _refuse(plan, start < plan.end[task], "is sent before it has ended", task)
    _refuse(plan, end != start + size / plan.link.bandwidth, "is not sent at the speed of the link", task)
    _refuse(plan, _overlaps(sender * plan.processors + receiver, start, end), "is sent on a busy link", task)
    keys: NDArray[np.int64] = (task * _PAYLOADS + payload) * plan.processors + receiver
    return keys


def _overlaps(place: NDArray[np.int64], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return what starts before another thing in the same place has ended."""
    order = np.lexsort((end, start, place))
    found = np.zeros(len(place), bool)
    found[order[1:]] = (place[order[1:]] == place[order[:-1]]) & (start[order[1:]] < end[order[:-1]])
    return found


def _refuse(plan: Plan, wrong: NDArray[np.bool_], what: str, tasks: NDArray[np.int64] | None = None) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        batch, j = divmod(first if tasks is None else int(tasks[first]), len(plan.graph.tasks))
        kind, unit, chunk = plan.graph.tasks[j]
        raise UserError(f"plan: {kind} of unit {unit}, run {chunk}, batch {batch} {what}; make the plan anew")
