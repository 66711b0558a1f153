"""Where and in which order the stages of a module run: what every execution offers, and what it needs of the module.

The simulation and a pipeline of several processes sum up an epoch and count its steps alike.
"""

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from layerpipe2.delays import Delays
from layerpipe2.engine.checkpoint_file import CheckedModule, settle
from layerpipe2.engine.saved_weights import network_changed
from layerpipe2.engine.step import Loss
from layerpipe2.engine.trainer_callbacks import unfreezes
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


def pair_of_tensors(batch: Any) -> tuple[Tensor, Tensor]:
    """A mini-batch's inputs and targets.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        return batch[0], batch[1]
    parts = ""
    if isinstance(batch, tuple | list):
        parts = f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    raise UserError(
        f"mini-batch is a {type(batch).__name__}{parts}; a pipeline takes a pair (inputs, targets) of two tensors: "
        "give the DataLoader a collate_fn that returns one"
    )


class StagedModule(CheckedModule):
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
    unfreezes: bool | None

    @property
    def delays_frozen(self) -> bool:
        """Whether frozen parameters are delayed as well, because they may be unfrozen while training."""
        return unfreezes(self.trainer) if self.unfreezes is None else self.unfreezes

    def optimizer_over(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The user's optimizer over ``parameters``, which its maker may walk more than once.

        Raises:
            UserError: if the maker returns something else, or an optimizer that evaluates the network by itself.
        """
        optimizer = self.make_optimizer(list(parameters))
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer returned a {type(optimizer).__name__}; it must return a torch.optim optimizer")
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise UserError(
                f"{type(optimizer).__name__} evaluates the network several times per update, which a pipeline can't "
                "do; take an optimizer whose step() needs no closure"
            )
        settle(optimizer)
        return optimizer

    def scheduler_over(self, optimizer: Optimizer) -> LRScheduler | None:
        """The user's learning-rate scheduler of ``optimizer``, if there is one.

        Raises:
            UserError: if it needs a metric, or the maker returns something else.
        """
        if self.make_scheduler is None:
            return None
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "ReduceLROnPlateau waits for a metric, which a pipeline doesn't give it; take a scheduler that depends "
                "on the step or epoch alone"
            )
        if not isinstance(scheduler, LRScheduler):
            raise UserError(f"scheduler returned a {type(scheduler).__name__}; it must return a torch.optim scheduler")
        settle(optimizer, scheduler)
        return scheduler


_SHORT, _LONG = 200, 1000


class AuditSteps:
    """Which steps of an epoch are audited: the first, and one that the epoch's number draws.

    An audit takes up to two further steps' time, so of epochs shorter than 200 mini-batches only some have a drawn one:
    one in 200 steps on average. An endless epoch has it among its first 1000.

    Attributes:
        step: steps of the epoch that are done.
    """

    def __init__(self) -> None:
        self.step, self._drawn = 0, -1

    def start_epoch(self, epoch: int, batches: float) -> None:
        """Begin epoch number ``epoch`` of ``batches`` mini-batches."""
        self.step, self._drawn = (
            0,
            random.Random(epoch).randrange(1, _SHORT if batches < _SHORT else int(min(batches, _LONG))),
        )

    @property
    def due(self) -> bool:
        """Whether the next step is to be audited."""
        return self.step in (0, self._drawn)


class Execution(ABC):
    """Where and in which order the stages of ``module`` run; the ``Trainer``'s strategy chooses it."""

    def __init__(self, module: StagedModule) -> None:
        self.module = module
        self.totals = {phase: Totals() for phase in ("train", "val", "test")}
        self.audits = AuditSteps()
        self._parts: dict[str, nn.Module | nn.Parameter] = {}

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

    def note_network(self) -> None:
        """Training begins: remember which layers and parameters the network has."""
        self._parts = self._parts_now()

    def check_network(self) -> None:
        """Refuse a network that has other layers or parameters than when training began.

        Raises:
            UserError: saying so.
        """
        now = self._parts_now()
        if now.keys() != self._parts.keys() or any(now[name] is not part for name, part in self._parts.items()):
            raise network_changed("the network")

    def _parts_now(self) -> dict[str, nn.Module | nn.Parameter]:
        return {**dict(self.module.stages.named_modules()), **dict(self.module.stages.named_parameters())}

    @abstractmethod
    def start_epoch(self) -> None:
        """Before an epoch's first mini-batch."""

    @abstractmethod
    def end_epoch(self) -> None:
        """After an epoch's last mini-batch: refuse weights that something else than the optimizer has changed.

        Raises:
            UserError: naming the stage.
        """

    @abstractmethod
    def train(self, batch: Any) -> None:
        """One update of every stage."""

    @abstractmethod
    def evaluate(self, phase: str, batch: Any) -> None:
        """Loss and accuracy of the latest weights, added to the totals of ``phase``."""

    def start_evaluation(self, phase: str) -> None:
        """Before the first mini-batch of a validation or test: an interrupted one before it doesn't count."""
        self.totals[phase].take_means()

    def where_diverged(self) -> dict[str, Any]:
        """Where a loss first was not finite, once one was.

        Returns:
            ``epoch`` and ``step`` (mini-batch of that epoch), both from 0, ``stage`` and ``quantity`` as in
            :class:`layerpipe2.engine.divergence.Divergence`. ``None`` where it is not known: the step, if the loss was
            that of a validation or on a GPU. A pipeline of several processes ends with an error that says it.
        """
        return {"epoch": self.module.trainer.current_epoch, "step": None, "stage": None, "quantity": "loss"}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a bit-exact continuation needs beside weights and optimizer."""

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
