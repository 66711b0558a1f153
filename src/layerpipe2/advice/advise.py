"""Does this network, in so many stages, with this optimizer and learning rate, need a weight history?"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from layerpipe2.advice.measurement import Measurement
from layerpipe2.advice.replay import copied
from layerpipe2.advice.result import Advice
from layerpipe2.advice.rule import RULE, strategy_of
from layerpipe2.delays import Delays
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.errors import LARGEST, UserError, integer
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.train import make_module, make_trainer, running_lightning
from layerpipe2.strategies import STRATEGIES, find_strategy, make_strategy

STEPS = 100
"""Updates that a measurement spans, if nothing else is asked for."""
_RECALLING = ("latest", "average", "pair")
"""Families of strategies whose weights are not exact."""


def advise(
    config: RunConfig, *, steps: int = STEPS, data: Data | None = None, strategies: Sequence[str] | None = None
) -> Advice:
    """Train by exact stashing for a while and measure what each strategy would do to the gradients.

    Args:
        config: the settings of the training to come. Of them ``strategy`` only adds to the ``strategies``, and
            measuring begins after its warm-up (``warmup_epochs``, ``stash_epochs``).
        steps: updates that the measurement spans, once the pipeline is full.
        data: the data set if it is already in memory; by default it is loaded by name.
        strategies: which to measure beside ``latest`` and that of the rule of thumb; by default all of the table that
            are not exact.

    Returns:
        The advice: of a training that diverges, too. Nothing else is changed, random generators included.

    Raises:
        UserError: on settings that don't work together, a pipeline without delays, or a training that ends too early.
    """
    if config.strategy == "sequential":
        raise UserError("strategy is 'sequential', one stage without delay: there is no history to drop; leave it out")
    names = _names(steps, strategies, config.strategy)
    plain = config.copy_with(strategy="stash", stash_epochs=0.0, probe_every=0)
    device = resolve_device(config.device)
    torch.set_num_threads(config.threads)
    data = data or load(config.dataset, root=Path(config.data_root) if config.data_root else None)
    with isolate_rng():
        pl.seed_everything(config.seed, verbose=False)
        plan = make_plan(plain, data.input_shape, data.num_classes)
        _check_delays(plan.delays)
        loader = make_loaders(plain, data, device)["train"]
        warmup = round(max(config.warmup_epochs, config.stash_epochs) * len(loader))
        limit = [StepLimit(config.max_steps)] if config.max_steps else []
        measurement = Measurement(names, steps, warmup)
        return _measured(make_module(plan, len(loader)), loader, measurement, device, config.epochs, limit)


def advise_module(
    module: PipelinedModule,
    loader: Iterable[Any],
    *,
    steps: int = STEPS,
    warmup: int = 0,
    strategies: Sequence[str] | None = None,
) -> Advice:
    """The same for a module of your own, before it is trained: a copy of its stages is trained by exact stashing.

    Args:
        module: with the optimizer, loss, scheduler and other settings of the training to come.
        loader: a ``DataLoader`` of mini-batches ``(x, y)``; read again from the start when it ends.
        steps: updates that the measurement spans, once the pipeline is full.
        warmup: updates before it begins at the earliest, such as those of the scheduler's warm-up.
        strategies: which to measure beside ``latest`` and that of the rule of thumb; by default all of the table that
            are not exact.

    Raises:
        UserError: on settings that don't work together, a pipeline without delays, or a training that ends too early.
    """
    if not isinstance(module, PipelinedModule) or not isinstance(module.stages, nn.ModuleList):
        raise UserError(f"module is a {type(module).__name__}; give a PipelinedModule with all of its stages")
    names = _names(steps, strategies, module.strategy.name or "latest")
    integer(warmup, "warmup", 0)
    _check_delays(module.delays)
    with isolate_rng():
        stashing = PipelinedModule(
            copied(list(module.stages)),
            module.delays,
            make_strategy("stash"),
            optimizer=module.make_optimizer,
            loss=module.loss,
            scheduler=module.make_scheduler,
            scheduler_interval="step" if module.scheduler_interval == "step" else "epoch",
            gradient_clip_norm=module.gradient_clip_norm,
            drain=module.drain,
            precision="bf16" if module.precision == "bf16" else "native",
            stage_seed=module.stage_seed,
            unfreezes=module.unfreezes,
        )
        return _measured(stashing, loader, Measurement(names, steps, warmup), resolve_device("auto"), -1)


def _names(steps: int, strategies: Sequence[str] | None, own: str) -> list[str]:
    integer(steps, "steps", 1, LARGEST)
    table = [name for name, row in STRATEGIES.items() if row.family in _RECALLING]
    for name in strategies or ():
        if find_strategy(name).family not in _RECALLING:
            raise UserError(f"strategy '{name}' has exact weights: there is nothing to measure; leave it out")
    also = [own] if find_strategy(own).family in _RECALLING else []
    return list(
        dict.fromkeys(["latest", strategy_of(RULE.quantity), *(table if strategies is None else strategies), *also])
    )


def _check_delays(delays: Delays) -> None:
    if not any(delays.per_stage):
        raise UserError(
            f"no stage has a delay ({delays.num_stages} stages, delay law '{delays.convention}'): there is no history "
            "to drop; cut the network into more stages, or give another delay law"
        )


def _measured(
    module: PipelinedModule,
    loader: Iterable[Any],
    measurement: Measurement,
    device: torch.device,
    epochs: int,
    callbacks: Sequence[Callback] = (),
) -> Advice:
    trainer = make_trainer(epochs, device, [measurement, *callbacks], limits=(None, 0))
    with running_lightning("You defined a `validation_step` but have no `val_dataloader`"):
        trainer.fit(module, loader)
    return measurement.advice(module)
