"""Measure, early in a training of exact stashing, what may predict whether it needs a weight history."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.seed import isolate_rng

from experiments.predicting.measurement import Measurement
from experiments.predicting.signs import Signs
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.train import make_module

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
