"""Speed-ups predicted from measured times of units, to be compared with measured speed-ups."""

from dataclasses import replace
from functools import cache

from experiments.pipelines.measure import measure_layers
from experiments.pipelines.processes import run_ranks
from layerpipe2.delays import Delays
from layerpipe2.planning import Costs, StageWork
from layerpipe2.planning.balance import Balance, balanced
from layerpipe2.planning.schedules import SCHEDULES, build_schedule, simulate
from layerpipe2.planning.variants import Variant, group_starts
from layerpipe2.runs.config import RunConfig


class Predictor:
    """Times of the units of one network on this machine, and what follows; transfers between processes are left out.

    Args:
        config: network, data, batch size and optimizer.
        processes: of a pipeline.
        repeats: timed steps of each unit.
        strategy: the weight history that the cuts of all variants are balanced for; "" for none.
    """

    def __init__(self, config: RunConfig, processes: int, repeats: int, strategy: str = "") -> None:
        self.config, self.processes, self.strategy = config, processes, strategy

        def measured(size: int, *, update: bool = True, strategy: str = "") -> tuple[StageWork, ...]:
            # In a process of its own, like every variant.
            found: tuple[StageWork, ...] = run_ranks(measure_layers, 1, config, size, update, strategy, repeats)[0]
            return found

        self._profile = cache(measured)

    def balance(self, stages: int) -> Balance:
        """The best cut into so many stages, by the times of whole mini-batches."""
        size = self.config.batch_size
        delayed = self._profile(size, strategy=self.strategy) if self.strategy and stages > 1 else ()
        return balanced(self._profile(size), stages, delayed=delayed)

    def cut(self, variant: str) -> Balance:
        """The stages of a variant, balanced or groups of as many units, with its own history."""
        form = Variant.parse(variant)
        found = self.balance(form.stages(self.processes))
        if form.groups:
            found = replace(found, starts=group_starts(len(found.units), len(found.starts)))
        delayed = self._profile(self.config.batch_size, strategy=form.strategy) if form.kind == "async" else ()
        return replace(found, delayed=delayed)

    def speedup(self, variant: str) -> float | None:
        """Predicted speed over plain training; None where nothing of ours models the variant.

        There is no measured time of the weights' gradients alone: where their place decides, there is no prediction.
        """
        form, cut = Variant.parse(variant), self.cut(variant)
        if form.kind == "plain":
            return cut.sequential / self._accumulated(form.micro_batches, cut)
        if form.is_runtime:
            return None if form.split and form.convention != "layerpipe2" else cut.speedup(form.convention)
        if form.kind not in SCHEDULES:  # threads among them: units are timed on one
            return None
        return cut.sequential / self._synchronous(form.kind, form.micro_batches, cut)

    def _accumulated(self, parts: int, cut: Balance) -> float:
        """Seconds per mini-batch of one process."""
        if parts == 1:
            return cut.sequential
        passes = sum(unit.total.flops for unit in self._profile(self.config.batch_size // parts, update=False))
        return parts * passes + sum(unit.weight.flops for unit in cut.units)

    def _synchronous(self, name: str, micro_batches: int, cut: Balance) -> float:
        """Seconds per mini-batch: the schedule with the times of micro-batches, then the slowest process' update."""
        units: tuple[StageWork, ...] = self._profile(self.config.batch_size // micro_batches, update=False)
        stages = Balance(units, cut.starts).stages
        costs = Costs(stages, Delays.none(len(stages)))
        plan = build_schedule(name, len(stages), self.processes, micro_batches)
        updates = [0.0] * self.processes
        for k, stage in enumerate(cut.stages):
            updates[k % self.processes] += stage.weight.flops
        return simulate(plan, costs, cut.device).makespan + max(updates)
