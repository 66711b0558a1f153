"""Times predicted from measured times of units, bandwidths and latencies, to be compared with measured times.

A message costs its two processors what it takes between processes of one host, half of it each, and keeps its link busy
for what it takes longer there. A pass over the weights, such as an update, takes longer when all processes make one at
once (:attr:`layerpipe2.planning.machine.Machine.crowding`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from layerpipe2.delays import Delays
from layerpipe2.planning import Costs, FlopDevice, StageWork, Work
from layerpipe2.planning.balance import Balance, balanced
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.profiling import MakeOptimizer, profile
from layerpipe2.planning.schedules import SCHEDULES, build_schedule, simulate
from layerpipe2.planning.variants import Variant, group_starts
from layerpipe2.strategies import make_strategy

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20  # bytes of gradients that DDP sends at a time (torch's defaults)

_SCHEDULES = {name: name for name in SCHEDULES} | {"zero-bubble": "zb-h1"}
"""A kind of variant -> the schedule that models it, where there is one."""


Profile = Callable[[int, bool, str, bool, int], tuple[StageWork, ...]]
"""(size, update, strategy, split, threads) -> :func:`layerpipe2.planning.profiling.profile`.

For mini-batches of ``size``, with or without an update, with the history of ``strategy`` if it names one, with the
kinds of gradients apart if split, in one process of so many threads.
"""


def profiled(units: Sequence[nn.Module], x: Tensor, make_optimizer: MakeOptimizer, repeats: int) -> Profile:
    """Time the units in this process, ``repeats`` steps of them with parts of the mini-batch ``x`` (B, ...)."""

    def timed(size: int, update: bool, strategy: str, split: bool, threads: int) -> tuple[StageWork, ...]:
        torch.set_num_threads(threads)
        optimizer, history = make_optimizer if update else None, make_strategy(strategy) if strategy else None
        return profile(units, x[:size], optimizer, history=history, split=split, repeats=repeats)

    return timed


class Predictor:
    """What follows from times of the units of one network.

    Args:
        profile: gives the times; asked once for everything.
        batch_size: samples per mini-batch.
        processes: of a pipeline.
        strategy: the weight history that the cuts of all variants are balanced for; "" for none, None for their own.
        threads: of every process of a variant without threads of its own.
    """

    def __init__(
        self, profile: Profile, batch_size: int, processes: int, strategy: str | None = "", threads: int = 1
    ) -> None:
        self.batch_size, self.processes, self.strategy, self.threads = batch_size, processes, strategy, threads
        self._profile = cache(profile)

    def _units(
        self, size: int, *, update: bool = True, strategy: str = "", split: bool = False, threads: int = 0
    ) -> tuple[StageWork, ...]:
        return self._profile(size, update, strategy, split, threads or self.threads)

    def balance(self, stages: int, strategy: str = "", *, recomputes: bool = False) -> Balance:
        """Find the best cut into so many stages, by times of whole mini-batches; with a history where cuts have one."""
        size, strategy = self.batch_size, strategy if self.strategy is None else self.strategy
        delayed = self._units(size, strategy=strategy) if strategy and stages > 1 else ()
        return balanced(self._units(size), stages, delayed=delayed, recomputes=recomputes and self.strategy is None)

    def cut(self, variant: str) -> Balance:
        """Return the stages of a variant, balanced or groups of as many units, with its own history."""
        form = Variant.parse(variant)
        history = form.strategy if form.kind == "async" else ""
        found = self.balance(form.stages(self.processes), history, recomputes=form.recompute)
        if form.groups:
            found = replace(found, starts=group_starts(len(found.units), len(found.starts)))
        return replace(found, delayed=self._units(self.batch_size, strategy=history) if history else ())

    def speedup(self, variant: str, machine: Machine | None = None) -> float | None:
        """Predict the speed over plain training; None where there is no prediction."""
        seconds = self.seconds(variant, machine)
        return None if seconds is None else self.cut("plain").sequential / seconds

    def seconds(self, variant: str, machine: Machine | None = None) -> float | None:
        """Predict seconds per mini-batch in the steady state; None where nothing of ours models the variant.

        Neither FSDP nor zero-bubble V is modelled, nor a split backward pass that hides no message.
        """
        form, cut, machine = Variant.parse(variant), self.cut(variant), machine or Machine()
        if form.kind == "plain":
            return self._accumulated(form.micro_batches, cut)
        if form.kind == "threads":
            return sum(unit.total.flops for unit in self._units(self.batch_size, threads=form.threads))
        if form.kind == "ddp":
            parts = self._units(self.batch_size // self.processes, update=False)
            return data_parallel(parts, _update(cut.units), self.processes, machine)
        if form.is_runtime:
            known = not form.split or form.convention == "layerpipe2"
            return self._asynchronous(form, cut, machine) if known else None
        return self._synchronous(form.kind, form.micro_batches, cut, machine) if form.kind in _SCHEDULES else None

    def _accumulated(self, parts: int, cut: Balance) -> float:
        if parts == 1:
            return cut.sequential
        passes = sum(unit.total.flops for unit in self._units(self.batch_size // parts, update=False))
        return parts * passes + _update(cut.units)

    def _asynchronous(self, form: Variant, cut: Balance, machine: Machine) -> float:
        """Return the iteration bound."""
        if machine.shared is not None:
            machine = replace(machine, local=machine.shared, link=machine.shared)
        stages = carrying([_crowded(stage, machine) for stage in cut.stages], machine)
        costs = Costs(stages, form.delays(self.processes), recomputes=form.recompute)
        return costs.period(FlopDevice(1.0, machine.wire))

    def _synchronous(self, name: str, micro_batches: int, cut: Balance, machine: Machine) -> float:
        """Simulate the schedule with the times of micro-batches, and add the slowest process' update."""
        split = name == "zero-bubble"
        units = self._units(self.batch_size // micro_batches, update=False, split=split)
        stages = carrying(Balance(units, cut.starts).stages, machine)
        costs = Costs(stages, Delays.none(len(stages)))
        plan = build_schedule(_SCHEDULES[name], len(stages), self.processes, micro_batches)
        updates = [0.0] * self.processes
        for k, stage in enumerate(cut.stages):
            updates[k % self.processes] += machine.crowding * stage.weight.flops
        return simulate(plan, costs, FlopDevice(1.0, machine.wire)).makespan + max(updates)


def data_parallel(parts: Sequence[StageWork], update: float, processes: int, machine: Machine) -> float:
    """Predict seconds per mini-batch of DDP.

    Gradients are gathered in buckets while the backward pass goes on from the output side: a bucket that is full is
    copied there, averaged around a ring, which sends ``2 (n - 1) / n`` of its bytes in ``2 (n - 1)`` messages each way,
    and copied back.

    Args:
        parts: times of the units for one process' part of the mini-batch, without update.
        update: seconds of one process' update of all weights.
        processes: n.
        machine: bandwidths and latency.
    """
    share = 2 * (processes - 1) / processes
    now, link, bucket, limit = sum(unit.forward.flops for unit in parts), 0.0, 0, _FIRST_BUCKET
    for k in reversed(range(len(parts))):
        now += parts[k].activation.flops
        bucket += parts[k].parameter_bytes
        if bucket >= limit or k == 0:
            copied = 2 * bucket / machine.together
            now += copied
            link = max(now, link) + machine.wire.occupation(share * bucket) + 2 * (processes - 1) * machine.wire.latency
            now += machine.local.occupation(share * bucket) + copied
            bucket, limit, last = 0, _BUCKET, copied
    return max(now, link + last) + machine.crowding * update


def carrying(stages: Sequence[StageWork], machine: Machine) -> tuple[StageWork, ...]:
    """Add the time that messages from and to their neighbours take the stages, as long forward as backward."""
    last = len(stages) - 1
    sizes = [(k > 0) * s.input_bytes + (k < last) * s.output_bytes for k, s in enumerate(stages)]
    added = zip(stages, (Work(machine.local.occupation(size / 2)) for size in sizes), strict=True)
    return tuple(replace(s, forward=s.forward + more, activation=s.activation + more) for s, more in added)


def _crowded(stage: StageWork, machine: Machine) -> StageWork:
    return replace(stage, weight=Work(machine.crowding * stage.weight.flops))


def _update(units: Sequence[StageWork]) -> float:
    return sum(unit.weight.flops for unit in units)
