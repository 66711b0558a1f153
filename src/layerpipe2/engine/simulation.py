"""How a ``PipelinedModule`` trains in one process: with the engine, or a CUDA graph of the engine's step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.cuda_graph import GraphedStep, obstacle
from layerpipe2.engine.metrics import Totals
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.errors import UserError

if TYPE_CHECKING:
    from layerpipe2.engine.module import PipelinedModule

COMPUTE_DTYPES = {"native": None, "bf16": torch.bfloat16}


def made_optimizer(
    make: Callable[[Iterable[nn.Parameter]], Optimizer], parameters: Iterable[nn.Parameter]
) -> Optimizer:
    """The user's optimizer over ``parameters``, which ``make`` may walk more than once.

    Raises:
        UserError: if ``make`` returns something else.
    """
    optimizer = make(list(parameters))
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"optimizer returned a {type(optimizer).__name__}; it must return a torch.optim optimizer")
    return optimizer


class Execution(ABC):
    """Where and in which order the stages of ``module`` run; chosen by the ``Trainer``'s strategy."""

    def __init__(self, module: PipelinedModule) -> None:
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

    def results(self, phase: str) -> dict[str, Tensor]:
        """Means over all mini-batches of ``phase`` since the last call, the same in every process."""
        return self.totals[phase].drain()


class Simulation(Execution):
    """The delayed training step of :mod:`layerpipe2.engine.step`, in one process."""

    def __init__(self, module: PipelinedModule) -> None:
        super().__init__(module)
        self.engine = self._build()
        self._graphed: GraphedStep | None = None

    def check(self) -> None:
        """One device, no autocast."""
        trainer = self.module.trainer
        if "16" in str(trainer.precision):
            raise UserError(
                f"Trainer(precision='{trainer.precision}') would hide the weights from the pipeline (autocast) or "
                "round its averages; leave the Trainer's precision alone and give PipelinedModule(precision='bf16')"
            )
        if trainer.world_size > 1:
            raise UserError(
                f"Trainer uses {trainer.world_size} devices; the simulated pipeline runs on one: give devices=1, or "
                "strategy=layerpipe2.PipelineStrategy() for one process per stage"
            )

    def optimizers(self) -> Any:
        """One optimizer and, if there is one, the scheduler."""
        module = self.module
        optimizer = made_optimizer(module.make_optimizer, module.stages.parameters())
        if module.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": module.make_scheduler(optimizer)}

    def start(self, resumed: Mapping[str, Any] | None) -> None:
        """A new engine, since the parameters may have moved."""
        self.engine = self._build()
        if resumed is not None:
            self.engine.load_state_dict(resumed["engine"])
        self._graphed = self._make_graphed()

    def start_epoch(self) -> None:
        """Audit the first forward pass; with ``drain``, empty the pipeline."""
        self.engine.audit_next()
        if self.module.drain:
            self.engine.refill()

    def train(self, batch: tuple[Tensor, Tensor]) -> None:
        """One mini-batch through the whole network."""
        x, y = batch
        loss, outputs = self._step(x, y)
        self.totals["train"].add(loss, outputs, y)

    def evaluate(self, phase: str, batch: tuple[Tensor, Tensor]) -> None:
        """The whole network, one mini-batch."""
        x, y = batch
        outputs = self.module(x)
        self.totals[phase].add(self.module.loss(outputs, y), outputs, y)

    def state_dict(self) -> dict[str, Any]:
        """Delay lines and history states."""
        return {"engine": self.engine.state_dict()}

    def _build(self) -> PipelineEngine:
        module = self.module
        return PipelineEngine(
            list(module.stages),
            module.delays,
            module.history,
            compute_dtype=COMPUTE_DTYPES[module.precision],
            gradient_clip_norm=module.gradient_clip_norm,
            stage_seed=module.stage_seed,
        )

    def _make_graphed(self) -> GraphedStep | None:
        module = self.module
        if not module.cuda_graph or module.device.type != "cuda":
            return None
        optimizer = module.optimizers(use_pl_optimizer=False)
        reason = obstacle(optimizer)  # type: ignore[arg-type]
        if module.stage_seed is not None:
            reason = "stage_seed changes generators between stages: leave it out"
        if reason is not None:
            rank_zero_info(f"layerpipe2: no CUDA graph, training is several times slower: {reason}")
            return None
        return GraphedStep(self.engine, module.loss, optimizer)  # type: ignore[arg-type]

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        optimizer: Any = self.module.optimizers()
        if self._graphed is None:
            return self.engine.train_step(x, y, self.module.loss, optimizer)
        # The graph contains the optimizer's step; Lightning counts steps in these two callbacks of its wrapper.
        optimizer._on_before_step()
        results = self._graphed(x, y)
        optimizer._on_after_step()
        return results
