"""Speed-ups predicted from measured layer times, to be held against the measured ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from experiments.pipelines.measure import measure_layers
from experiments.pipelines.names import Variant, group_starts
from experiments.pipelines.processes import run_ranks
from layerpipe2.balance import Balance, balanced
from layerpipe2.costs import Costs, StageWork
from layerpipe2.delays import DelaySchedule
from layerpipe2.runs.config import RunConfig
from layerpipe2.schedules import SCHEDULES, build_schedule, simulate


class Predictor:
    """Layer times of one network on this machine, and what follows; transfers between processes are left out.

    Args:
        config: network, data, batch size and optimizer.
        processes: of a pipeline.
        repeats: timed steps per profile.
    """

    def __init__(self, config: RunConfig, processes: int, repeats: int) -> None:
        self.config, self.processes = config, processes
        self._profile = cache(
            lambda size, update: run_ranks(measure_layers, 1, config, size, update, repeats)[0]
        )  # each in a process of its own, like every variant

    def balance(self, stages: int) -> Balance:
        """The best cut into so many stages, by the times of whole mini-batches."""
        return balanced(self._profile(self.config.batch_size, True), stages)

    def cut(self, variant: str) -> Balance:
        """The stages of a variant: balanced, or groups of as many units."""
        form = Variant.parse(variant)
        balance = self.balance(form.stages(self.processes))
        return (
            replace(balance, starts=group_starts(len(balance.units), len(balance.starts))) if form.groups else balance
        )

    def speedup(self, variant: str) -> float | None:
        """Predicted speed over plain training; None where nothing of ours models the variant.

        The profile knows no time of the weights' gradients alone: where their place decides, there is no prediction.
        """
        form, cut = Variant.parse(variant), self.cut(variant)
        if form.kind == "plain":
            return cut.sequential / self._accumulated(form.micro_batches, cut)
        if form.is_runtime:
            return None if form.split and form.convention != "layerpipe2" else cut.speedup(form.convention)
        if form.kind not in SCHEDULES:
            return None
        return cut.sequential / self._synchronous(form.kind, form.micro_batches, cut)

    def _accumulated(self, parts: int, cut: Balance) -> float:
        """Seconds per mini-batch of one process."""
        if parts == 1:
            return cut.sequential
        passes = sum(unit.total.flops for unit in self._profile(self.config.batch_size // parts, False))
        return parts * passes + sum(unit.weight.flops for unit in cut.units)

    def _synchronous(self, name: str, micro_batches: int, cut: Balance) -> float:
        """Seconds per mini-batch: the schedule with the times of micro-batches, then the slowest process' update."""
        units: tuple[StageWork, ...] = self._profile(self.config.batch_size // micro_batches, False)
        stages = Balance(units, cut.starts).stages
        costs = Costs(stages, DelaySchedule.none(len(stages)))
        plan = build_schedule(name, len(stages), self.processes, micro_batches)
        updates = [0.0] * self.processes
        for k, stage in enumerate(cut.stages):
            updates[k % self.processes] += stage.weight.flops
        return simulate(plan, costs, cut.device).makespan + max(updates)
