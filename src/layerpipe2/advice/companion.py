"""A training beside a Trainer's: the same network, settings and mini-batches with another strategy."""

import copy

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from layerpipe2.engine.checkpoint_file import use_plain_numbers
from layerpipe2.engine.execution import COMPUTE_DTYPES, StagedModule
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import Strategy


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
        """One mini-batch, the ``batch_idx``-th of its epoch; returns its loss."""
        if self._drain and batch_idx == 0:
            self._engine.refill()
        loss, _ = self._engine.train_step(x, y, self._loss, self.optimizer)
        self._step_scheduler("step")
        return float(loss)

    def end_epoch(self) -> None:
        """An epoch-wise scheduler takes its step."""
        self._step_scheduler("epoch")

    def _step_scheduler(self, interval: str) -> None:
        if self._scheduler is not None and self._interval == interval:
            self._scheduler.step()
            use_plain_numbers(self.optimizer)
