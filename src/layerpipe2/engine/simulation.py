"""How a ``PipelinedModule`` trains in one process: with the engine, or a CUDA graph of the engine's step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from layerpipe2.engine.cuda_graph import CapturedStep, why_not_capturable
from layerpipe2.engine.execution import COMPUTE_DTYPES, Execution, StagedModule
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.errors import UserError


class Simulation(Execution):
    """The delayed training step of :mod:`layerpipe2.engine.step`, in one process."""

    def __init__(self, module: StagedModule) -> None:
        super().__init__(module)
        self._engine: PipelineEngine | None = None
        self._captured: CapturedStep | None = None

    @property
    def engine(self) -> PipelineEngine:
        """The pipeline of the training that is under way, or of the last one.

        Raises:
            UserError: before training.
        """
        if self._engine is None:
            raise UserError("the pipeline is laid out when training starts; call fit() first, or make a PipelineEngine")
        return self._engine

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
        optimizer = module.optimizer_over(module.stages.parameters())
        scheduler = module.scheduler_over(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler} if scheduler else optimizer

    def start(self, resumed: Mapping[str, Any] | None) -> None:
        """A new engine: only now the parameters are where they stay."""
        module = self.module
        self._engine = PipelineEngine(
            list(module.stages),
            module.delays,
            module.history,
            compute_dtype=COMPUTE_DTYPES[module.precision],
            gradient_clip_norm=module.gradient_clip_norm,
            stage_seed=module.stage_seed,
        )
        if resumed is not None and resumed["engine"] is not None:
            self._engine.load_state_dict(resumed["engine"])
        self._captured = self._capture()

    def start_epoch(self) -> None:
        """Audit the first forward pass; with ``drain``, empty the pipeline."""
        self.engine.audit_next()
        if self.module.drain:
            self.engine.refill()

    def train(self, batch: tuple[Tensor, Tensor]) -> None:
        """One mini-batch through the whole network."""
        x, y = batch
        optimizer: Any = self.module.optimizers()
        if self._captured is None:
            loss, outputs = self.engine.train_step(x, y, self.module.loss, optimizer)
        else:
            # The graph contains the optimizer's step; Lightning counts steps in these two callbacks of its wrapper.
            optimizer._on_before_step()
            loss, outputs = self._captured(x, y)
            optimizer._on_after_step()
        self.totals["train"].add(loss, outputs, y)

    def evaluate(self, phase: str, batch: tuple[Tensor, Tensor]) -> None:
        """The whole network, one mini-batch."""
        x, y = batch
        outputs = self.module(x)
        self.totals[phase].add(self.module.loss(outputs, y), outputs, y)

    def state_dict(self) -> dict[str, Any]:
        """Delay lines and history states; ``None`` before training, when there are none."""
        return {"engine": self._engine and self._engine.state_dict()}

    def save_checkpoint(self, path: Path) -> None:
        """Write a file beside it, then rename."""
        temporary = path.with_suffix(".tmp")
        self.module.trainer.save_checkpoint(temporary)
        temporary.replace(path)

    def _capture(self) -> CapturedStep | None:
        module = self.module
        if not module.cuda_graph or module.device.type != "cuda":
            return None
        optimizer = module.optimizers(use_pl_optimizer=False)
        reason = why_not_capturable(optimizer)  # type: ignore[arg-type]
        if module.stage_seed is not None:
            reason = "stage_seed changes generators between stages: leave it out"
        if reason is not None:
            rank_zero_info(f"layerpipe2: no CUDA graph, training is several times slower: {reason}")
            return None
        return CapturedStep(self.engine, module.loss, optimizer)  # type: ignore[arg-type]
