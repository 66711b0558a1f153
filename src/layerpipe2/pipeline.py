"""The Lightning module that trains a network as a pipeline with delayed gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from layerpipe2.delays import DelaySchedule
from layerpipe2.engine import Loss, PipelineEngine
from layerpipe2.errors import UserError
from layerpipe2.graph import GraphedStep, obstacle
from layerpipe2.history import WeightHistory
from layerpipe2.metrics import Totals

_COMPUTE_DTYPES = {"native": None, "bf16": torch.bfloat16}


class PipelinedModule(pl.LightningModule):
    """Trains ``stages`` with delayed gradients; validates, tests, predicts and saves the latest weights.

    A batch is a pair ``(x, y)``. Per epoch it logs ``train_loss``, ``val_loss``, ``test_loss`` and, where the targets
    are classes, ``train_accuracy``, ``val_accuracy``, ``test_accuracy`` (fractions); nothing is logged per step.
    A checkpoint of an epoch's end holds the delay lines, history states and random generators, so that a resumed run
    continues bit for bit. Without delays the training is bit-equal to a plain Lightning module's.

    Args:
        stages: the network, input side first, e.g. from :func:`layerpipe2.stages.partition`.
        schedule: one delay per stage, in optimizer updates.
        history: weight history of the backward pass, e.g. ``make_history("ema-window")``.
        optimizer: makes the optimizer from the parameters; any ``torch.optim`` optimizer without a closure.
        loss: ``loss(outputs, targets)`` -> scalar, mean over the batch.
        scheduler: makes a learning-rate scheduler from the optimizer, stepped every ``scheduler_interval``.
        gradient_clip_norm: largest gradient norm per stage; the ``Trainer``'s own clipping does not apply here.
        drain: empty the pipeline at every epoch's end (each epoch then starts with a fill). Otherwise mini-batches of
            two epochs overlap in the pipeline.
        precision: ``native`` computes in the parameters' type (also with ``Trainer(precision="64-true")``); ``bf16``
            computes in bfloat16 with parameters, updates and averages in float32.
        cuda_graph: on a CUDA device, run the step as one CUDA graph where the optimizer allows it; where it does not,
            a line says why. Off until ``tests/cuda`` has passed on your device.

    Raises:
        UserError: if schedule and stages do not match, or ``precision`` is unknown; when fitting starts, if the
            ``Trainer`` uses autocast or several devices.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        schedule: DelaySchedule,
        history: WeightHistory,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        loss: Loss = F.cross_entropy,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        gradient_clip_norm: float | None = None,
        drain: bool = False,
        precision: Literal["native", "bf16"] = "native",
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        if precision not in _COMPUTE_DTYPES:
            raise UserError(f"precision is '{precision}'; give one of {', '.join(_COMPUTE_DTYPES)}")
        if scheduler_interval not in ("epoch", "step"):
            raise UserError(f"scheduler_interval is '{scheduler_interval}'; give epoch or step")
        self.automatic_optimization = False
        self.stages = nn.ModuleList(stages)
        self.schedule, self.history = schedule, history
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval = scheduler_interval
        self.loss, self.drain, self.precision = loss, drain, precision
        self.gradient_clip_norm = gradient_clip_norm
        self.cuda_graph = cuda_graph
        self.engine = self._build_engine()
        self._graphed: GraphedStep | None = None
        self._resumed: dict[str, Any] | None = None
        self._totals = {phase: Totals() for phase in ("train", "val", "test")}

    def forward(self, x: Tensor) -> Tensor:
        """The network with its latest weights: (B, ...) -> outputs."""
        for stage in self.stages:
            x = stage(x)
        return x

    def configure_optimizers(self) -> Any:
        """The optimizer and, if there is one, the scheduler."""
        optimizer = self.make_optimizer(self.stages.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def on_fit_start(self) -> None:
        """Check the trainer; continue a checkpoint's random generators, before the data iterator draws from them."""
        self._check_trainer()
        if self._resumed is not None:
            torch.set_rng_state(self._resumed["rng"].cpu())
            if "cuda_rng" in self._resumed and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._resumed["cuda_rng"].cpu(), self.device)

    def on_train_start(self) -> None:
        """Lay the pipeline out on the training device, full of the initial weights or as the checkpoint left it."""
        self.engine = self._build_engine()
        if self._resumed is not None:
            self.engine.load_state_dict(self._resumed["engine"])
            self._resumed = None
        self._graphed = self._make_graphed()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One mini-batch through the pipeline; with ``drain``, an epoch's first one finds it empty."""
        if batch_idx == 0:  # not in on_train_epoch_start, which Lightning leaves out after some resumes
            self._start_epoch()
        x, y = batch
        loss, outputs = self._step(x, y)
        self._totals["train"].add(loss, outputs, y)
        if self.make_scheduler is not None and self.scheduler_interval == "step":
            self._step_scheduler()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means; step an epoch-wise scheduler."""
        self._log_totals("train")
        if self.make_scheduler is not None and self.scheduler_interval == "epoch":
            self._step_scheduler()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of the latest weights."""
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation data."""
        self._log_totals("val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of the latest weights."""
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the means over the test data."""
        self._log_totals("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a bit-exact continuation needs beside weights and optimizer."""
        saved = {"engine": self.engine.state_dict(), "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            saved["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        checkpoint["pipeline"] = saved

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep the pipeline's state until training starts on its device, if it is training that goes on."""
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        self._resumed = checkpoint.get("pipeline") if fitting else None

    def _start_epoch(self) -> None:
        self._totals["train"].drain()
        self.engine.audit_next()
        if self.drain:
            self.engine.refill()

    def _build_engine(self) -> PipelineEngine:
        return PipelineEngine(
            list(self.stages),
            self.schedule,
            self.history,
            compute_dtype=_COMPUTE_DTYPES[self.precision],
            gradient_clip_norm=self.gradient_clip_norm,
        )

    def _make_graphed(self) -> GraphedStep | None:
        if not self.cuda_graph or self.device.type != "cuda":
            return None
        optimizer = self.optimizers(use_pl_optimizer=False)
        reason = obstacle(optimizer)  # type: ignore[arg-type]
        if reason is not None:
            rank_zero_info(f"layerpipe2: no CUDA graph, training is several times slower: {reason}")
            return None
        return GraphedStep(self.engine, self.loss, optimizer)  # type: ignore[arg-type]

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        optimizer = self.optimizers()
        if self._graphed is None:
            return self.engine.train_step(x, y, self.loss, optimizer)
        # The graph contains the optimizer's step; Lightning counts steps in these two callbacks of its wrapper.
        optimizer._on_before_step()  # type: ignore[union-attr]
        results = self._graphed(x, y)
        optimizer._on_after_step()  # type: ignore[union-attr]
        return results

    def _check_trainer(self) -> None:
        if "16" in str(self.trainer.precision):
            raise UserError(
                f"Trainer(precision='{self.trainer.precision}') would hide the weights from the pipeline (autocast) or "
                "round its averages; leave the Trainer's precision alone and give PipelinedModule(precision='bf16')"
            )
        if self.trainer.world_size > 1:
            raise UserError(
                f"Trainer uses {self.trainer.world_size} devices; the simulated pipeline runs on one: give devices=1"
            )

    def _evaluate(self, phase: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        outputs = self(x)
        self._totals[phase].add(self.loss(outputs, y), outputs, y)

    def _log_totals(self, phase: str) -> None:
        for name, value in self._totals[phase].drain().items():
            self.log(f"{phase}_{name}", value)

    def _step_scheduler(self) -> None:
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()  # type: ignore[union-attr]
