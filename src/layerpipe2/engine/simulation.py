"""How a ``PipelinedModule`` trains in one process: with the engine, or a CUDA graph of the engine's step."""

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, Self

from torch import Tensor, nn

from layerpipe2.engine.accumulation import check_epoch, check_whole
from layerpipe2.engine.cuda_graph import CapturedStep, why_not_capturable
from layerpipe2.engine.divergence import diverged_stage
from layerpipe2.engine.epoch import AuditSteps
from layerpipe2.engine.execution import COMPUTE_DTYPES, Execution, StagedModule
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.engine.trainer_callbacks import Hooks, call_hook, gradient_hooks
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl


class Simulation(Execution):
    """The delayed training step of :mod:`layerpipe2.engine.step`, in one process.

    Raises:
        UserError: if some of the stages are in other processes.
    """

    def __init__(self, module: StagedModule) -> None:
        super().__init__(module)
        if isinstance(module.stages, nn.ModuleDict):  # a training in several processes left these
            if len(module.stages) < module.delays.num_stages:
                raise UserError(
                    "a training in several processes left this one some of the stages only; make the module anew, and "
                    "give it the weights of a checkpoint (layerpipe2.pipeline.checkpoint.whole_state_dict)"
                )
            module.stages = nn.ModuleList(module.stages.values())
        self._engine: PipelineEngine | None = None
        self._captured: CapturedStep | None = None
        self._hooks: Hooks = {}
        self.diverged: dict[str, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Leave the pipeline out of a copy of the module, as callbacks average it: whose training lays out its own."""
        memo[id(self)] = made = copy(self)
        made.__dict__.update(deepcopy(vars(self) | {"_engine": None, "_captured": None, "_hooks": {}}, memo))
        return made

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
        check_epoch(module.accumulate, module.trainer.num_training_batches)
        self._engine = PipelineEngine(
            list(module.stages),
            module.delays,
            module.strategy,
            compute_dtype=COMPUTE_DTYPES[module.precision],
            gradient_clip_norm=module.gradient_clip_norm,
            stage_seed=module.stage_seed,
            unfreezes=module.delays_frozen,
            accumulate=module.accumulate,
        )
        if resumed is not None and resumed["engine"] is not None:
            self._engine.load_state_dict(resumed["engine"])
        self.note_network()
        self.diverged = None
        self.audits = AuditSteps()
        self._hooks = gradient_hooks(module.trainer, module)
        if "on_before_optimizer_step" in self._hooks:
            self._engine.expect_changes_in_step()
        self._captured = self._capture()

    def note_weights(self) -> None:
        """Note the weights in the engine, if training has begun."""
        if self._engine is not None:
            self._engine.note()

    def release(self) -> None:
        """Release the parameters of the engine's stages."""
        for weights in self._engine.delayed.values() if self._engine is not None else ():
            weights.release()

    def start_epoch(self) -> None:
        """Empty the pipeline, with ``drain``."""
        trainer = self.module.trainer
        self.audits.start_epoch(trainer.current_epoch, trainer.num_training_batches)
        if self.module.drain:
            self.engine.refill()

    def end_epoch(self) -> None:
        """Look at weights and parameters; with ``drain``, they may change between two epochs."""
        self.check_network()
        check_whole(self.engine.waiting, self.module.accumulate)
        if not self.module.drain:
            self.engine.check_unchanged()

    def train(self, batch: tuple[Tensor, Tensor]) -> None:
        """One mini-batch through the whole network."""
        x, y = self.module.batch_format.pair(batch)
        if self.audits.due:
            self.check_network()
            self.engine.audit_next()
        optimizer: Any = self.module.optimizers()
        if self._captured is None:
            loss, outputs = self.engine.train_step(
                x, y, self.module.training_loss, optimizer, self._call if self._hooks else None
            )
        else:
            # The graph contains the optimizer's step; Lightning counts steps in these two callbacks of its wrapper.
            optimizer._on_before_step()
            loss, outputs = self._captured(x, y)
            optimizer._on_after_step()
        if self.engine.divergence is not None and self.diverged is None:
            self.diverged = {
                "epoch": self.module.trainer.current_epoch,
                "step": self.audits.step,
                **self.engine.divergence._asdict(),
            }
        self.audits.step += 1
        if self.audits.due or self.audits.step == self.module.trainer.num_training_batches:
            self.note_weights()
        self.totals["train"].add(loss, outputs, y)

    def where_diverged(self) -> dict[str, Any]:
        """Say where a loss first was not finite: see :meth:`Execution.where_diverged`."""
        if self.diverged is not None:
            return self.diverged
        stage = diverged_stage(self.module.stages)
        found = {"stage": stage, "quantity": "loss" if stage is None else "weights"}
        return {"epoch": self.module.trainer.current_epoch, "step": None, **found}

    def evaluate(self, phase: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The whole network, one mini-batch."""
        x, y = self.module.batch_format.pair(batch)
        outputs: Tensor = self.module(x)
        self.totals[phase].add(self.module.training_loss(outputs, y), outputs, y)
        return outputs

    def predict(self, batch: Any) -> Tensor:
        """The whole network, one mini-batch."""
        outputs: Tensor = self.module(self.module.batch_format.inputs_of(batch))
        return outputs

    def state_dict(self) -> dict[str, Any]:
        """The engine's state: delay lines, the strategy's states; ``None`` before training, when there are none.

        Raises:
            UserError: while training, if something else than the optimizer has changed weights.
        """
        if self._engine is not None and self.module.trainer.training:
            self._engine.check_unchanged()
        return {"engine": self._engine and self._engine.state_dict()}

    def _call(self, name: str, *args: Any) -> None:
        call_hook(self._hooks, self.module, name, *args)

    def _capture(self) -> CapturedStep | None:
        module = self.module
        if not module.cuda_graph or module.device.type != "cuda":
            return None
        optimizer = module.optimizers(use_pl_optimizer=False)
        reason = why_not_capturable(optimizer)  # type: ignore[arg-type]
        if module.strategy.acts("forward"):
            reason = "the strategy chooses the weights of forward passes, which a graph would do once: leave it out"
        if module.accumulate > 1:
            reason = "not every mini-batch makes an update: leave accumulate out"
        if module.stage_seed is not None:
            reason = "stage_seed changes generators between stages: leave it out"
        if self._hooks:
            reason = f"the callbacks' {', '.join(self._hooks)} can't be called in it: leave them out"
        if reason is not None:
            pl.utilities.rank_zero_info(f"layerpipe2: no CUDA graph, training is several times slower: {reason}")
            return None
        return CapturedStep(self.engine, module.training_loss, optimizer)  # type: ignore[arg-type]
