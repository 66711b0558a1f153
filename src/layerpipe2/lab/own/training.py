"""A network of one's own under the settings of a run: its stages, its module, one training of it."""

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from layerpipe2.advice.advise import readable
from layerpipe2.cli.own import Own, own_training
from layerpipe2.cutting import cut
from layerpipe2.delays import Delays
from layerpipe2.engine.batches import BatchFormat
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.engine.step import Loss
from layerpipe2.errors import UserError
from layerpipe2.lab.own import check_precision
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import Plan
from layerpipe2.lab.runs.train import make_module
from layerpipe2.lightning import pl
from layerpipe2.strategies import make_strategy

STAGES = 2
"""A network is cut into so many, if nothing else is asked for."""
_USERS = (".*does not have many workers", ".*smaller than the logging interval")
"""Lightning's advice on loaders, which a hundred trials needn't repeat."""


def called(name: str, config: RunConfig) -> Own:
    """Call the function with the random generators that a run has.

    Raises:
        UserError: as :func:`layerpipe2.cli.own.own_training`.
    """
    pl.seed_everything(config.seed, verbose=False)
    return own_training(name)


def first_inputs(name: str, own: Own) -> Tensor:
    """Inputs (B, ...) of the first training batch of a network.

    Raises:
        UserError: if it is a module with settings of its own, or there is no batch of one tensor and its targets.
    """
    if own.pipeline is not None:
        raise UserError(f"{name} returns a PipelinedModule, whose settings are made; return network, data and loss")
    if not isinstance(own.train, Sized) or not len(own.train):
        raise UserError(f"the training data that {name} returns have no length; return a loader that has one")
    return BatchFormat().inputs_of(next(iter(own.train)))


@dataclass(frozen=True)
class OwnRun:
    """A network that is cut, its data and its loss, and the settings that it is trained by.

    Attributes:
        at: names of the submodules that stages begin at, where it was cut; empty: one stage, or made as stages.
        x: inputs of a training batch (B, ...).
    """

    own: Own
    stages: list[nn.Module]
    at: tuple[str, ...]
    x: Tensor
    config: RunConfig

    @classmethod
    def made(
        cls, name: str, own: Own, config: RunConfig, stages: int | None = None, at: Sequence[str] | None = None
    ) -> Self:
        """Cut what the function ``name`` has returned.

        Args:
            name, own: of :func:`called`.
            config: the settings.
            stages: into how many, by measured times; by default two.
            at: instead, where it was cut before.

        Raises:
            UserError: if it is something else than network, data and loss, or can't be cut so.
        """
        torch.set_num_threads(config.threads)
        x = first_inputs(name, own)
        if not isinstance(own.model, nn.Module):
            if stages not in (None, len(own.model)):
                raise UserError(f"--stages is {stages}, but {name} returns {len(own.model)} stages; leave it out")
            return cls(own, list(own.model), (), x, config)
        if at:
            parts = cut(own.model, x, at=list(at))
        else:
            parts = cut(own.model, x, 1 if at is not None else STAGES if stages is None else stages)
        return cls(own, list(parts), tuple(parts.at), x, config)

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches."""
        return len(cast(Sized, self.own.train))

    def plan(self, config: RunConfig | None = None) -> Plan:
        """Delays and strategy by these settings, or by others."""
        config, number = config or self.config, len(self.stages)
        check_precision(config)
        if config.strategy == "sequential":
            config = config.copy_with(convention="none", delays=None, stash_epochs=0.0)
        delays = Delays.by_law(config.convention, number) if config.delays is None else Delays.custom(config.delays)
        stages = cast(list[nn.Sequential], self.stages)
        plan = Plan(config, number, stages, delays, make_strategy(config.strategy))
        return plan.warmed_up(self.steps_per_epoch)

    def module(self, config: RunConfig | None = None) -> PipelinedModule:
        """Return what trains it by these settings, or by others.

        Raises:
            UserError: on settings that don't go together, or not with the stages.
        """
        made = make_module(self.plan(config), self.steps_per_epoch)
        made.loss = cast(Loss, self.own.loss)
        return made

    def train(self, callbacks: Sequence[pl.Callback]) -> tuple[list[dict[str, float]], Plan]:
        """Train it, and validate after every epoch, until a metric isn't finite.

        Returns:
            For every epoch what validation logged, ``val_loss`` among it; and the plan.
        """
        rows, config = _Rows(), self.config
        limit = [StepLimit(config.max_steps)] if config.max_steps else []
        trainer = quiet_trainer(config.epochs, resolve_device(config.device), [*limit, rows, *callbacks])
        plan, validation = self.plan(), self.own.validation or ()
        with running_lightning(*_USERS):
            trainer.fit(self.module(), readable(self.own.train), readable(validation))
        return rows.found, plan


class _Rows(pl.Callback):
    """Keeps what every validation logs, and stops training when some of it isn't finite."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the metrics of the validation that has ended."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        self.found.append(logged)
        trainer.should_stop = trainer.should_stop or not all(map(math.isfinite, logged.values()))
