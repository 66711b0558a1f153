"""A limit of mini-batches, which the simulation and a pipeline of several processes count alike."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class StepLimit(Callback):
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
