"""Where and in which order the stages of a module run: what every execution offers, and what it needs of the module.

The simulation and a pipeline of several processes sum up an epoch and count its steps alike.
"""

import inspect
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric

from layerpipe2.delays import Delays
from layerpipe2.engine.batches import BatchFormat, adapted
from layerpipe2.engine.checkpoint_file import CheckedModule, use_plain_numbers
from layerpipe2.engine.epoch import AuditSteps, Totals
from layerpipe2.engine.saved_weights import network_changed
from layerpipe2.engine.step import Loss, PipelineEngine
from layerpipe2.engine.trainer_callbacks import unfreezes
from layerpipe2.errors import UserError, shown
from layerpipe2.lightning import pl
from layerpipe2.strategies import Strategy

COMPUTE_DTYPES = {"native": None, "bf16": torch.bfloat16}
"""Name of a precision -> type of the compute weights; ``None``: that of the parameters."""


class StagedModule(CheckedModule):
    """A Lightning module that is a row of stages: the settings that an :class:`Execution` reads.

    :class:`layerpipe2.engine.module.PipelinedModule` explains and sets them.
    """

    stages: nn.ModuleList
    delays: Delays
    strategy: Strategy
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    make_scheduler: Callable[[Optimizer], LRScheduler] | None
    loss: Loss
    drain: bool
    precision: str
    gradient_clip_norm: float | None
    stage_seed: int | None
    cuda_graph: bool
    unfreezes: bool | None
    accumulate: int
    scheduler_interval: str
    own_metrics: Mapping[str, Metric]
    inputs: str | int | tuple[str | int, ...] | None
    target: str | int | tuple[str | int, ...] | None
    ignore_index: int | None
    shift_target: bool
    accuracy: bool
    probe_every: int

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Meet a setting's name of version 0.1.

        Raises:
            UserError: naming the new one.
        """
        if "history" in options and "history" not in inspect.signature(cls.__init__).parameters:
            raise UserError(f"history is called strategy since version 0.2; give strategy={shown(options['history'])}")
        return super().__new__(cls)

    @property
    def engine(self) -> PipelineEngine:
        """The pipeline of one process."""
        raise NotImplementedError

    @property
    def batch_format(self) -> BatchFormat:
        """Which parts of a mini-batch the pipeline takes."""
        return BatchFormat(self.inputs, self.target, self.ignore_index, self.shift_target)

    @property
    def training_loss(self) -> Loss:
        """The loss that a training computes: ``loss`` with the settings for classes."""
        made: Loss = adapted(self.loss, self.ignore_index, several=isinstance(self.target, tuple))
        return made

    @property
    def delays_frozen(self) -> bool:
        """Whether frozen parameters are delayed as well, because they may be unfrozen while training."""
        return unfreezes(self.trainer) if self.unfreezes is None else self.unfreezes

    def optimizer_over(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The user's optimizer over ``parameters``, which its maker may walk more than once.

        Raises:
            UserError: if the maker returns something else, an optimizer that evaluates the network by itself, or a
                wrapper that lacks what Lightning reads.
        """
        optimizer = self.make_optimizer(list(parameters))
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer returned a {type(optimizer).__name__}; it must return a torch.optim optimizer")
        for name in ("param_groups", "defaults", "state"):  # those of Lightning's Optimizable
            if not hasattr(optimizer, name):
                raise UserError(
                    f"{type(optimizer).__name__} has no {name}, as Lightning wants of an optimizer (does its __init__ "
                    "leave out that of its base class?); set it, in a wrapper to that of the optimizer within"
                )
        hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
        if not isinstance(getattr(optimizer, hooks[0], None), OrderedDict):  # likewise
            Optimizer.__setstate__(optimizer, {name: OrderedDict() for name in hooks})
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise UserError(
                f"{type(optimizer).__name__} evaluates the network several times per update, which a pipeline can't "
                "do; take an optimizer whose step() needs no closure"
            )
        use_plain_numbers(optimizer)
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
        use_plain_numbers(optimizer, scheduler)
        return scheduler


class Execution(ABC):
    """Where and in which order the stages of ``module`` run; the ``Trainer``'s strategy chooses it."""

    fixed: tuple[str, ...] = (
        "delays",
        "strategy",
        "gradient_clip_norm",
        "precision",
        "stage_seed",
        "cuda_graph",
        "unfreezes",
        "accumulate",
        "own_metrics",
        "ignore_index",
        "accuracy",
    )
    """Settings of the module that are read when training begins, and never again."""

    def __init__(self, module: StagedModule) -> None:
        self.module = module
        self._settings: list[tuple[str, Any]] = []
        counts: dict[str, Any] = {"ignore_index": module.ignore_index, "accuracy": module.accuracy}
        counts["several"] = isinstance(module.target, tuple)
        self.totals = {phase: Totals(module.own_metrics, **counts) for phase in ("train", "val", "test")}
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

    def note_settings(self) -> None:
        """Training begins: remember what its settings are."""
        self._settings = [(name, getattr(self.module, name)) for name in self.fixed]

    def check_settings(self) -> None:
        """Refuse settings that a callback has changed where that has no effect any more.

        Raises:
            UserError: naming the first one.
        """
        held = vars(self.module)
        for name, value in self._settings:
            if held.get(name) is value:
                continue
            now = getattr(self.module, name)  # a module as a loss stands elsewhere
            if now is not value and now != value:
                raise UserError(
                    f"{name} was changed while training (by a callback?), where it has no effect; set it before fit()"
                )

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
    def note_weights(self) -> None:
        """Keep copies of the weights until the next mini-batch: what a callback does to them by then is seen."""

    @abstractmethod
    def release(self) -> None:
        """Give the parameters memory of their own after training, instead of views of one vector."""

    @abstractmethod
    def start_epoch(self) -> None:
        """Prepare for an epoch, before its first mini-batch."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Refuse weights that something else than the optimizer has changed, after an epoch's last mini-batch.

        Raises:
            UserError: naming the stage.
        """

    @abstractmethod
    def train(self, batch: Any) -> None:
        """One mini-batch; after the last one of an update, that update at every stage."""

    @abstractmethod
    def evaluate(self, phase: str, batch: Any) -> Tensor | None:
        """Loss and accuracy of the latest weights, added to the totals of ``phase``.

        Returns:
            The outputs (B, ...), where one process has all stages; else ``None``.
        """

    @abstractmethod
    def predict(self, batch: Any) -> Tensor:
        """Outputs (B, ...) of the latest weights, the same in every process."""

    def start_evaluation(self, phase: str) -> None:
        """Begin a validation or test, before its first mini-batch; an interrupted one before it doesn't count."""
        self.totals[phase].take_means()

    def where_diverged(self) -> dict[str, Any]:
        """Say where a loss first was not finite, once one was.

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
