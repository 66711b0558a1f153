"""Where and in which order the stages of a module run: what every execution offers, and what it needs of the module.

The simulation and a pipeline of several processes sum up an epoch and count its steps alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from layerpipe2.delays import Delays
from layerpipe2.engine.step import Loss
from layerpipe2.errors import UserError
from layerpipe2.history import WeightHistory

COMPUTE_DTYPES = {"native": None, "bf16": torch.bfloat16}
"""Name of a precision -> type of the compute weights; ``None``: that of the parameters."""


class Totals:
    """Epoch means of loss and accuracy, summed on the device: nothing waits for it before the epoch ends."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._samples = 0
        self._targets = 0

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: ``loss`` is its mean, ``outputs`` (B, C, ...), ``targets`` (B, ...) if they are classes."""
        batch = len(targets)
        loss = loss.detach() * batch
        self._loss = loss if self._loss is None else self._loss + loss
        self._samples += batch
        if not targets.is_floating_point() and outputs.ndim == targets.ndim + 1:
            correct = (outputs.argmax(1) == targets).sum()
            self._correct = correct if self._correct is None else self._correct + correct
            self._targets += targets.numel()

    def take_means(self) -> dict[str, Tensor]:
        """``loss`` and, for classes, ``accuracy`` (fraction) over all batches added; starts anew."""
        means = {} if self._loss is None else {"loss": self._loss / self._samples}
        if self._correct is not None:
            means["accuracy"] = self._correct / self._targets
        self.__init__()  # type: ignore[misc]
        return means


class StagedModule(pl.LightningModule):
    """A Lightning module that is a row of stages: the settings that an :class:`Execution` reads.

    :class:`layerpipe2.engine.module.PipelinedModule` explains and sets them.
    """

    stages: nn.ModuleList
    delays: Delays
    history: WeightHistory
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    make_scheduler: Callable[[Optimizer], LRScheduler] | None
    loss: Loss
    drain: bool
    precision: str
    gradient_clip_norm: float | None
    stage_seed: int | None
    cuda_graph: bool

    def optimizer_over(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The user's optimizer over ``parameters``, which its maker may walk more than once.

        Raises:
            UserError: if the maker returns something else.
        """
        optimizer = self.make_optimizer(list(parameters))
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer returned a {type(optimizer).__name__}; it must return a torch.optim optimizer")
        return optimizer

    def scheduler_over(self, optimizer: Optimizer) -> LRScheduler | None:
        """The user's learning-rate scheduler of ``optimizer``, if there is one.

        Raises:
            UserError: if it needs a metric.
        """
        scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "ReduceLROnPlateau waits for a metric, which a pipeline doesn't give it; take a scheduler that depends "
                "on the step or epoch alone"
            )
        return scheduler


class Execution(ABC):
    """Where and in which order the stages of ``module`` run; the ``Trainer``'s strategy chooses it."""

    def __init__(self, module: StagedModule) -> None:
        self.module = module
        self.totals = {phase: Totals() for phase in ("train", "val", "test")}

    @abstractmethod
    def check(self) -> None:
        """Refuse a ``Trainer`` that this execution can't work with.

        Raises:
            UserError: saying what to change.
        """

    @abstractmethod
    def optimizers(self) -> Any:
        """What Lightning's ``configure_optimizers`` returns."""

    @abstractmethod
    def start(self, resumed: Mapping[str, Any] | None) -> None:
        """Lay the pipeline out on the training device, full of the initial weights or as a checkpoint left it."""

    @abstractmethod
    def start_epoch(self) -> None:
        """Before an epoch's first mini-batch."""

    @abstractmethod
    def train(self, batch: Any) -> None:
        """One update of every stage."""

    @abstractmethod
    def evaluate(self, phase: str, batch: Any) -> None:
        """Loss and accuracy of the latest weights, added to the totals of ``phase``."""

    def start_evaluation(self) -> None:  # noqa: B027 - nothing to prepare by default
        """Before the first mini-batch of a validation or test."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a bit-exact continuation needs beside weights and optimizer."""

    @abstractmethod
    def save_checkpoint(self, path: Path) -> None:
        """Replace the checkpoint at ``path`` by one of now: the old one or the new one is there, also after a kill."""

    def results(self, phase: str) -> dict[str, Tensor]:
        """Means over all mini-batches of ``phase`` since the last call, the same in every process."""
        return self.totals[phase].take_means()


class StepLimit(pl.Callback):
    """Stops after ``max_steps`` mini-batches; validation still runs on what was trained."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run may have reached the limit."""
        if trainer.current_epoch * int(trainer.num_training_batches) >= self.max_steps:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count in mini-batches: Lightning's own step counts optimizers."""
        done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        if done >= self.max_steps:
            trainer.should_stop = True
