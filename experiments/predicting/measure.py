"""Measure, early in a training of exact stashing, what may predict whether it needs a weight history."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from experiments.predicting.curvature import NotMeasured, Stability, measure_stability
from experiments.predicting.signs import Measured, Quality, Signs, total_of
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.divergence import describe, diverged_stage
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.gradient_probe import cosine
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.probe import ReconstructionProbe, updates_before
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.engine.replay import Replay, delayed_of
from layerpipe2.errors import UserError
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.train import make_module

MOMENTS = 10
"""Measured steps at least, if there are so many."""
_CURVED = 5
"""The curvature is measured at every fifth of them: it costs as much as all the rest."""
_RISEN = 1.0
"""A loss that has risen by so many times its first value counts as diverged, before it overflows."""


class Measurement(ReconstructionProbe):
    """The probe's errors of reconstruction, and at every measured step drift, gradients and now and then curvature.

    It measures once the pipeline is full and the averages have started (``2 d`` updates for the largest delay ``d``)
    and ``warmup`` updates are done; then, for ``steps`` updates, about :data:`MOMENTS` times; then training stops.

    Args:
        strategies: names of the histories to compare.
        steps: updates that the measurement spans.
        warmup: updates before it begins, if they are more than the fill takes.
    """

    def __init__(self, strategies: Sequence[str], steps: int, warmup: int = 0) -> None:
        super().__init__(strategies, max(1, steps // MOMENTS))
        self.steps, self.warmup = steps, warmup
        self.updates = self.inside = 0
        self._is_inside = False
        self._losses: list[float] = []
        self._means: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
        self._last: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._curvatures: list[Stability] = []
        self._not_measured: str | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure what the step that comes now would be with other weights."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        module = cast(PipelinedModule, pl_module)
        step = updates_before(module, batch_idx)
        self._is_inside = self.updates >= self.warmup and step >= self._fill(module)
        if not self._losses or (self._is_inside and step % self.every_n_steps == 0):
            with isolate_rng():
                self._measure(module, trainer, *module.batch_format.pair(batch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the update; stop when there were enough, or training has diverged."""
        if not (self.inside or self._is_inside):  # the probe measures earlier than this
            for series in self._series.values():
                series.errors.clear()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.updates += 1
        self.inside += self._is_inside
        engine = cast(PipelinedModule, pl_module).engine
        if self._is_inside:
            for k, stage in delayed_of(engine).items():
                self._compare_updates(k, stage.latest)
        else:
            self._last = {}
        if self.inside >= self.steps or engine.divergence is not None or not math.isfinite(self._losses[-1]):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse epochs that end before the pipeline was full."""
        module = cast(PipelinedModule, pl_module)
        if module.drain and not trainer.should_stop and int(module.engine.step_count) <= self._fill(module):
            raise UserError(
                f"drain empties the pipeline after {int(module.engine.step_count)} updates, and only after "
                f"{self._fill(module)} (twice the largest delay) could anything be measured; leave drain out"
            )

    def signs(self, module: PipelinedModule) -> Signs:
        """What was measured, when training has ended.

        Raises:
            UserError: if it ended before there was anything to measure.
        """
        diverged = self._diverged(module)
        if not self.inside and diverged is None:
            needed = max(self._fill(module), self.warmup)
            raise UserError(
                f"training ended after {self.updates} updates, and only after {needed} (twice the largest delay, or "
                "the warm-up) can anything be measured; train longer (epochs, max_steps), or in fewer stages"
            )
        errors = {(row["stage"], row["strategy"]): row["relative_error"] for row in self.rows()}
        stages = tuple(
            Measured(
                stage=k,
                delay=stage.delay,
                parameters=sum(slot.parameter.numel() for slot in stage.layout.slots),
                drift=_mean(self._means[k, "drift"]),
                update_correlation=_mean(self._means[k, "update_correlation"]),
                strategies={name: self._quality(k, name, errors.get((k, name))) for name in self.strategies},
            )
            for k, stage in delayed_of(module.engine).items()
        )
        return Signs(
            stages=stages,
            total=total_of(stages),
            stability=_mean_stability(self._curvatures),
            not_measured=self._not_measured if not self._curvatures else None,
            updates=self.inside,
            diverged=diverged,
        )

    def _fill(self, module: PipelinedModule) -> int:
        return 2 * max(module.delays.per_stage)

    def _measure(self, module: PipelinedModule, trainer: pl.Trainer, x: Tensor, y: Tensor) -> None:
        replay = Replay(module, x, y)
        self._losses.append(replay.loss)
        if not self._is_inside or not math.isfinite(replay.loss):
            return
        stages = delayed_of(module.engine)
        exact = replay.gradients()
        for k, stage in stages.items():
            delayed = stage.used()
            self._means[k, "drift"].append((stage.latest - delayed).norm() / delayed.norm())
        for name in self.strategies:
            found = replay.gradients({k: self._series[k, name].recalled(stages[k]) for k in stages})
            for k, gradient in found.items():
                for what, value in compare(gradient, exact[k]).items():
                    self._means[k, f"{what} {name}"].append(value)
        if (len(self._losses) - 2) % _CURVED == 0:
            try:
                self._curvatures.append(measure_stability(module, trainer.optimizers[0], x, y))
            except NotMeasured as reason:
                self._not_measured = str(reason)

    def _compare_updates(self, k: int, latest: Tensor) -> None:
        before, previous = self._last.get(k, (None, None))
        update = None if before is None else before - latest
        if update is not None and previous is not None:
            self._means[k, "update_correlation"].append(update @ previous / (update.norm() * previous.norm()))
        self._last[k] = latest.clone(), update

    def _quality(self, k: int, name: str, error: float | None) -> Quality:
        means = {
            what: _mean(self._means[k, f"{what} {name}"]) for what in ("alignment", "norm_ratio", "gradient_error")
        }
        return Quality(error, **means)

    def _diverged(self, module: PipelinedModule) -> str | None:
        lost = module.engine.divergence is not None or not math.isfinite(self._losses[-1])
        if lost or diverged_stage(module.stages) is not None:
            return describe(module.execution.where_diverged())
        first, last = self._losses[0], self._losses[-1]
        return f"its loss has risen from {first:.3g} to {last:.3g}" if last - first > _RISEN * abs(first) else None


def compare(gradient: Tensor, exact: Tensor) -> dict[str, Tensor]:
    """Cosine, ratio of norms and relative difference of two gradients (N,); NaN where the exact one is zero."""
    norm, true = gradient.norm(), exact.norm()
    return {
        "alignment": cosine(gradient, exact),
        "norm_ratio": norm / true,
        "gradient_error": (gradient - exact).norm() / true,
    }


def _mean(values: list[Tensor]) -> float | None:
    finite = [value for value in map(float, values) if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _mean_stability(found: list[Stability]) -> Stability | None:
    if not found:
        return None
    means = {name: sum(getattr(s, name) for s in found) / len(found) for name in ("curvature", "step", "shared_bound")}
    shares = tuple(sum(parts) / len(found) for parts in zip(*(s.shares for s in found), strict=True))
    return replace(found[0], **means, shares=shares)


STEPS = 100
"""Updates that a measurement spans."""


def measure(config: RunConfig, strategies: Sequence[str], *, steps: int = STEPS, data: Data | None = None) -> Signs:
    """What is measured of the training that these settings describe, whatever their strategy.

    Measuring begins once the pipeline is full, and after the warm-up (``warmup_epochs``, ``stash_epochs``).

    Args:
        config: the settings.
        strategies: names of those to compare, beside ``latest``.
        steps: updates that the measurement spans.
        data: the data set if it is already in memory; by default it is loaded by name.

    Raises:
        UserError: on settings that don't work together, or a training that ends too early.
    """
    torch.set_num_threads(config.threads)
    data = data or load(config.dataset, root=Path(config.data_root) if config.data_root else None)
    with isolate_rng():
        pl.seed_everything(config.seed, verbose=False)
        plan = make_plan(config.copy_with(strategy="stash"), data.input_shape, data.num_classes)
        loader = make_loaders(config, data, resolve_device(config.device))["train"]
        warmup = round(max(config.warmup_epochs, config.stash_epochs) * len(loader))
        measurement = Measurement(list(dict.fromkeys(["latest", *strategies])), steps, warmup)
        limit = [StepLimit(config.max_steps)] if config.max_steps else []
        return along(
            make_module(plan, len(loader)), loader, measurement, config.epochs, others=limit, device=config.device
        )


def along(
    module: PipelinedModule,
    loader: Iterable[Any],
    measurement: Measurement,
    epochs: int = -1,
    *,
    others: Sequence[Callback] = (),
    device: str = "cpu",
) -> Signs:
    """Train the module, whose strategy is exact, until enough is measured.

    Raises:
        UserError: if training ends too early.
    """
    trainer = quiet_trainer(epochs, resolve_device(device), [measurement, *others], limits=(None, 0))
    with running_lightning("You defined a `validation_step` but have no `val_dataloader`"):
        trainer.fit(module, loader)
    return measurement.signs(module)
