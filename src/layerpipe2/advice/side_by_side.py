"""The Lightning callback that trains other strategies beside exact stashing, and measures along the latter."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from layerpipe2.advice.result import Advice, Losses, Quality, StageQuality
from layerpipe2.engine.checkpoint_file import use_plain_numbers
from layerpipe2.engine.execution import COMPUTE_DTYPES, StagedModule
from layerpipe2.engine.gradient_probe import GradientProbe, Recalled
from layerpipe2.engine.replay import copied, delayed_of
from layerpipe2.engine.step import Loss, PipelineEngine
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl
from layerpipe2.strategies import Strategy, make_strategy

ROWS = 4
"""Places in the training at which is told how far everything has come."""
_MEASURED = 5
"""Measurements between two of them, if there are so many updates."""
_SLOW = 2
"""First updates, which take longer than others: passes are audited."""

Progress = Callable[[int, int, float], None]
"""Called with the number of updates that are done, that of all, and the seconds left (NaN: not known yet)."""


class KeptLoss:
    """A loss that remembers its last value, which a module's training step returns to nobody."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.value: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        value = self._loss(outputs, targets)
        self.value = value.detach()
        return value


class Companion:
    """Trains stages of its own as ``module`` trains with ``strategy``, bit for bit.

    Call it with torch's generators put aside (``isolate_rng``), before the module's own step: both then draw the same.

    Args:
        module: with the settings, under a ``Trainer``.
        stages: copies with the initial weights, on the training's device.
        strategy: instead of the module's own.

    Attributes:
        optimizer: over the stages' parameters.

    Raises:
        UserError: as the module itself does of its settings.
    """

    def __init__(self, module: StagedModule, stages: list[nn.Module], strategy: Strategy) -> None:
        self._engine = PipelineEngine(
            stages,
            module.delays,
            strategy,
            compute_dtype=COMPUTE_DTYPES[module.precision],
            gradient_clip_norm=module.gradient_clip_norm,
            stage_seed=module.stage_seed,
            unfreezes=module.delays_frozen,
        )
        self._drain, self._interval = module.drain, module.scheduler_interval
        self._loss = copy.deepcopy(module.training_loss)
        self.optimizer: Optimizer = module.optimizer_over(p for stage in stages for p in stage.parameters())
        self._scheduler: LRScheduler | None = module.scheduler_over(self.optimizer)

    def train(self, x: Tensor, y: Tensor, batch_idx: int) -> float:
        """Train on one mini-batch, the ``batch_idx``-th of its epoch, and return its loss."""
        if self._drain and batch_idx == 0:
            self._engine.refill()
        loss, _ = self._engine.train_step(x, y, self._loss, self.optimizer)
        self._step_scheduler("step")
        return float(loss)

    def end_epoch(self) -> None:
        """Let an epoch-wise scheduler take its step."""
        self._step_scheduler("epoch")

    def _step_scheduler(self, interval: str) -> None:
        if self._scheduler is not None and self._interval == interval:
            self._scheduler.step()
            use_plain_numbers(self.optimizer)


class SideBySide(GradientProbe):
    """Trains ``strategies`` beside a module that stashes, for ``steps`` updates; then training stops.

    Args:
        strategies: name -> what trains beside stashing; each is measured along the latter as well, by its name.
        steps: updates.
        loss: the module's.
        progress: told after every update.

    Attributes:
        updates: how many were made.
        diverged: strategy (``stash`` among them) -> the update, counted from 1, whose loss was not finite first.
    """

    def __init__(
        self, strategies: Mapping[str, Strategy], steps: int, loss: KeptLoss, progress: Progress | None = None
    ) -> None:
        super().__init__(list(strategies), max(1, steps // (ROWS * _MEASURED)))
        self._beside, self._steps, self._loss, self._progress = dict(strategies), steps, loss, progress
        self._row_ends = {math.ceil(steps * i / ROWS) for i in range(1, ROWS + 1)}
        self._companions: dict[str, Companion] = {}
        self._losses: dict[str, list[float]] = defaultdict(list)
        self._found: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        self._rows: list[Losses] = []
        self._qualities: dict[tuple[int, str], list[Quality]] = defaultdict(list)
        self.updates = self._before = 0  # up to now, and when the last epoch ended
        self.diverged: dict[str, int] = {}
        self._began = math.nan

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the initial weights, which are on their device now."""
        super().on_train_start(trainer, pl_module)
        module = cast(StagedModule, pl_module)
        with pl.utilities.seed.isolate_rng():
            for name, strategy in self._beside.items():
                self._companions[name] = Companion(module, copied(list(module.stages)), strategy)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure; then the mini-batch goes through the other trainings, before stashing has it."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        x, y = cast(StagedModule, pl_module).batch_format.pair(batch)
        for name, companion in self._companions.items():
            if name not in self.diverged:
                with pl.utilities.seed.isolate_rng():
                    self._note_loss(name, companion.train(x.clone(), y.clone(), batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the loss of stashing; end a row; stop when there were enough updates, or stashing has diverged."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        assert self._loss.value is not None
        self._note_loss("stash", float(self._loss.value))
        self.updates += 1
        if self.updates == _SLOW:
            self._began = time.perf_counter()
        if self._progress is not None:
            self._progress(self.updates, self._steps, self._seconds_left())
        stops = self.updates >= self._steps or "stash" in self.diverged
        if self.updates in self._row_ends or stops:
            self._end_row()
        trainer.should_stop = trainer.should_stop or stops

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the rates as the module does with its own scheduler; stop if the loader can't be read again."""
        trainer.should_stop = trainer.should_stop or self.updates == self._before
        self._before = self.updates
        for companion in self._companions.values():
            companion.end_epoch()

    def note(self, module: StagedModule, step: int, found: Recalled) -> None:
        """Keep a measurement instead of logging it."""
        self._found[found.stage, found.strategy].append((float(found.recall_error), float(found.gradient_cosine)))

    def advice(self, module: StagedModule) -> Advice:
        """Return what was found, when training has ended.

        Raises:
            UserError: if there was no update.
        """
        if not self.updates:
            raise UserError("training ended before its first update; give a loader with mini-batches")
        if self._losses:
            self._end_row()
        buffer = any(map(_keeps_newest, module.trainer.optimizers[0].param_groups))
        return Advice(
            updates=self.updates,
            rows=tuple(self._rows),
            diverged=dict(self.diverged),
            stages=tuple(
                StageQuality(
                    stage=k,
                    delay=weights.delay,
                    parameters=sum(p.numel() for p in weights.layout.parameters if p.requires_grad),
                    megabytes={
                        name: _copies(name, weights.delay, buffer=buffer) * _megabytes(weights.layout.parameters)
                        for name in ("stash", *self.strategies)
                    },
                    qualities={name: tuple(self._qualities[k, name]) for name in self.strategies},
                )
                for k, weights in delayed_of(module.engine).items()
            ),
        )

    def _seconds_left(self) -> float:
        timed = self.updates - _SLOW
        return (time.perf_counter() - self._began) / timed * (self._steps - self.updates) if timed > 0 else math.nan

    def _note_loss(self, name: str, loss: float) -> None:
        self._losses[name].append(loss)
        if not math.isfinite(loss):
            self.diverged.setdefault(name, self.updates + 1)

    def _end_row(self) -> None:
        names = ("stash", *self.strategies)
        means = {n: None if n in self.diverged else _finite_mean(self._losses[n]) for n in names}
        self._rows.append(Losses(self.updates, means))
        for place, pairs in self._found.items():
            errors, cosines = zip(*pairs, strict=True)
            self._qualities[place].append(Quality(self.updates, _finite_mean(errors), _finite_mean(cosines)))
        self._losses.clear()
        self._found.clear()


def _keeps_newest(group: dict[str, Any]) -> bool:
    """Say whether an optimizer's state tells the newest update of these parameters: SGD's momentum does, and Adam's."""
    return "betas" in group or (group.get("momentum", 0) > 0 and not group.get("nesterov", False))


def _megabytes(parameters: Sequence[Tensor]) -> float:
    return sum(p.numel() * p.element_size() for p in parameters) / 1e6


def _copies(name: str, delay: int, *, buffer: bool) -> float:
    return make_strategy(name).copies(delay, momentum_buffer=buffer)


def _finite_mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
