"""The Lightning module that trains a network as a pipeline with delayed gradients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from layerpipe2.delays import Delays
from layerpipe2.engine.checkpoint_file import guard, use_plain_numbers
from layerpipe2.engine.execution import Execution, StagedModule
from layerpipe2.engine.gradient_probe import GradientProbe
from layerpipe2.engine.hparams import LOGGED, delays_from, hparams, loss_from, strategy_from
from layerpipe2.engine.optimizer_checks import check_optimizers
from layerpipe2.engine.packing import unpack
from layerpipe2.engine.resuming import check_resumed, note_resumed, warn_of_data
from layerpipe2.engine.settings import check_autocast, check_probe_alone, check_settings
from layerpipe2.engine.simulation import Simulation
from layerpipe2.engine.step import Loss, PipelineEngine
from layerpipe2.engine.trainer_callbacks import check_callbacks
from layerpipe2.engine.values import handed_on
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl, warn_of_two
from layerpipe2.strategies import Strategy


class PipelinedModule(StagedModule):
    """Trains ``stages`` with delayed gradients; validates, tests, predicts and saves the latest weights.

    A batch is a pair ``(x, y)``, or has parts that ``inputs`` and ``target`` name. Per epoch it logs ``train_loss``,
    ``val_loss``, ``test_loss`` and, where the targets are classes, ``train_accuracy``, ``val_accuracy``,
    ``test_accuracy`` (fractions); per update nothing but what ``probe_every`` measures. Losses and ``learning_rate``
    stand in the progress bar.
    ``hparams`` has all settings as plain values, those that aren't by their names. They are saved, so that
    ``load_from_checkpoint(path, stages=..., optimizer=...)`` needs what only code can say.
    A checkpoint of an epoch's end holds delay lines, strategies' states and random generators, so that a resumed run
    continues bit for bit; one of an epoch's middle needs a data loader with ``state_dict`` and ``load_state_dict`` for
    it, and a line says so. Where validation writes it, before ``on_train_epoch_end``, Lightning draws a number more
    from torch's generator when it resumes: give ``stage_seed``, and the data an order that follows from the epoch's
    number. Without delays the training is bit-equal to a plain Lightning module's.

    Args:
        stages: the network, input side first, e.g. from :func:`layerpipe2.stages.partition`.
        delays: one delay per stage, in mini-batches; a delay law's name and a list of integers stand for them.
        strategy: what a stage does about its delay: a name, e.g. ``"ema-window"``, or a ``Strategy``.
        optimizer: makes the optimizer from all stages' parameters; any ``torch.optim`` optimizer without a closure. In
            several processes its groups are cut by stage, and the parameters of other processes have no values there.
        loss: ``loss(outputs, targets)`` -> scalar, mean over the batch; or its name in ``torch.nn.functional``.
        scheduler: makes a learning-rate scheduler from the optimizer, stepped every ``scheduler_interval``; one that
            needs a metric (``ReduceLROnPlateau``) is refused.
        gradient_clip_norm: largest gradient norm per stage; the ``Trainer``'s own clipping does not apply here.
        drain: empty the pipeline at every epoch's end (each epoch then starts with a fill). Otherwise mini-batches of
            two epochs overlap in the pipeline.
        precision: ``native`` computes in the parameters' type (also with ``Trainer(precision="64-true")``); ``bf16``
            computes in bfloat16 with parameters, updates and averages in float32.
        stage_seed: gives each stage its own stream of random numbers (dropout), as a pipeline of several processes
            has; ``None`` draws from torch's default generator.
        cuda_graph: on a CUDA device, run the step as one CUDA graph where the optimizer allows it; where it does not,
            a line says why. Off until ``layerpipe2 check`` and ``tests/cuda`` have passed on your device.
        unfreezes: delay parameters that are frozen when training begins as well (memory as for trained ones), because a
            callback may unfreeze them; ``None``: if the ``Trainer`` has a ``BaseFinetuning`` callback. Freezing, and
            unfreezing what was frozen while training, needs no announcement.
        metrics: name -> ``torchmetrics`` object of one number, which gets outputs and targets; logged per epoch as
            ``train_<name>``, ``val_<name>``, ``test_<name>``. Each has a copy of its own.
        accumulate: mini-batches per update, whose gradients are averaged, at every stage; delays count mini-batches.
        probe_every: while ``stash`` trains in one process, measure and log what other strategies would recall, each so
            many updates (:class:`layerpipe2.engine.gradient_probe.GradientProbe`); 0 measures nothing.
        inputs: name of the inputs where a batch is a mapping, as ``"input_ids"``, or position where it is a tuple;
            a tuple of several, which the first stage gets as a tuple of tensors.
        target: likewise the targets; several, as ``("labels", "weights")``, which a loss of your own gets as a tuple of
            tensors, and of which the first counts for ``ignore_index``, accuracy and metrics.
        ignore_index: class of targets that count neither in torch's losses of classes nor in loss means and accuracy.
        shift_target: a position's target is the next one (language models whose labels are their inputs); needs
            ``ignore_index`` for the last position.
        accuracy: whether it is logged.

    Raises:
        UserError: if delays and stages do not match, or a setting is not what it may be; when fitting starts, if one
            was changed to such a value, or the ``Trainer`` uses autocast, several devices, or a callback that would
            train something else; while it trains, if one was changed that is read when it begins, or a subclass has a
            ``training_step`` of its own; when it resumes, if the checkpoint is of another network or optimizer.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        delays: Delays | str | Sequence[int],
        strategy: Strategy | str,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        loss: Loss | str = F.cross_entropy,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        gradient_clip_norm: float | None = None,
        drain: bool = False,
        precision: Literal["native", "bf16"] = "native",
        stage_seed: int | None = None,
        cuda_graph: bool = False,
        unfreezes: bool | None = None,
        metrics: Mapping[str, Metric] | None = None,
        accumulate: int = 1,
        probe_every: int = 0,
        inputs: str | int | tuple[str | int, ...] | None = None,
        target: str | int | tuple[str | int, ...] | None = None,
        ignore_index: int | None = None,
        shift_target: bool = False,
        accuracy: bool = True,
    ) -> None:
        super().__init__()
        warn_of_two()
        self.automatic_optimization = False
        self.stages = nn.ModuleList(stages)
        self.delays, self.strategy = delays_from(delays, len(self.stages)), strategy_from(strategy)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval = scheduler_interval
        self.loss, self.drain, self.precision = loss_from(loss), drain, precision
        self.gradient_clip_norm = gradient_clip_norm
        self.stage_seed, self.cuda_graph, self.unfreezes = stage_seed, cuda_graph, unfreezes
        self.own_metrics, self.accumulate = {} if metrics is None else metrics, accumulate
        self.probe_every = probe_every
        self.inputs, self.target, self.ignore_index = inputs, target, ignore_index
        self.shift_target, self.accuracy = shift_target, accuracy
        check_settings(self)
        self._saved_hparams: dict[str, Any] = {}
        self._save_changed_hparams()
        self.execution: Execution = Simulation(self)
        self._checkpoint: Mapping[str, Any] | None = None
        self._epoch_ended, self._end_is_due = True, False

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """A module with the settings and weights of a checkpoint; ``options`` are stronger than its settings.

        Stages and the optimizer's maker must be given, as well as a loss, metrics or a strategy of one's own.

        Raises:
            UserError: if one of them is missing, or the file is damaged or holds more than tensors and plain values.
        """
        if cls.__init__ is PipelinedModule.__init__ and "stages" not in options:
            raise UserError("load_from_checkpoint has no stages; give them, as they were made for the training")
        return super().load_from_checkpoint(checkpoint_path, *args, **options)

    @property
    def engine(self) -> PipelineEngine:
        """The simulated pipeline, laid out anew by every training.

        Raises:
            UserError: before training, and where the stages run in several processes.
        """
        if not isinstance(self.execution, Simulation):
            raise UserError("a pipeline of several processes has no common engine; each process has its own stages")
        return self.execution.engine

    def setup(self, stage: str) -> None:
        """Check the settings; let the ``Trainer``'s strategy decide where the stages run; guard its checkpoints."""
        self._checkpoint = None  # one that an earlier fit() did not come to use is not this one's
        check_settings(self)
        self._save_changed_hparams()
        guard(self.trainer.strategy)
        choose = getattr(self.trainer.strategy, "execution", None)
        if choose is not None:
            check_probe_alone(self.probe_every)
            self.execution = choose(self)
        elif not isinstance(self.execution, Simulation):
            self.execution = Simulation(self)
        if stage == "fit":
            check_callbacks(self.trainer, self, several=not isinstance(self.execution, Simulation))

    def configure_callbacks(self) -> list[pl.Callback]:
        """The probe, if ``probe_every`` asks for it."""
        return [GradientProbe(every_n_steps=self.probe_every)] if self.probe_every else []

    def forward(self, x: Tensor) -> Tensor:
        """The network with its latest weights: (B, ...) -> outputs."""
        if not isinstance(self.stages, nn.ModuleList):
            raise UserError(
                "this process has some of the stages only; call the Trainer's predict, in which all processes take part"
            )
        for k, stage in enumerate(self.stages):
            x = handed_on(stage(unpack(x)), k, last=k == len(self.stages) - 1)
        return x

    def configure_optimizers(self) -> Any:
        """The optimizer, or one per stage, and their schedulers, if there are any."""
        return self.execution.optimizers()

    def on_fit_start(self) -> None:
        """Check the trainer; continue a checkpoint's random generators, before the data iterator draws from them."""
        self.execution.check()
        check_autocast(self.device.type, self.delays)
        check_optimizers(self.trainer.optimizers)
        if self._checkpoint is not None:
            check_resumed(self._checkpoint, self)
        resumed = self._resumed
        if resumed is not None:
            torch.set_rng_state(resumed["rng"].cpu())
            if "cuda_rng" in resumed and self.device.type == "cuda":
                torch.cuda.set_rng_state(resumed["cuda_rng"].cpu(), self.device)

    def on_train_start(self) -> None:
        """Lay the pipeline out on the training device, full of the initial weights or as the checkpoint left it."""
        resumed = self._resumed
        self.execution.start(resumed)
        self.execution.note_settings()
        if self._checkpoint is not None:
            warn_of_data(self.trainer, self._checkpoint, several=not isinstance(self.execution, Simulation))
        self._checkpoint = None
        self._end_is_due = resumed is not None and not resumed.get("epoch_ended", True)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One mini-batch through the pipeline; with ``drain``, an epoch's first one finds it empty."""
        if batch_idx == 0:  # not in on_train_epoch_start, which Lightning leaves out after some resumes
            self.execution.totals["train"].take_means()
            self.execution.start_epoch()
            if self._end_is_due:
                # The checkpoint was written behind an epoch's last mini-batch: Lightning leaves out that epoch's end.
                self._step_scheduler("epoch")
        if self._epoch_ended or self._end_is_due:  # to set an attribute of a module takes its time
            self._epoch_ended = self._end_is_due = False
        self.execution.check_settings()
        self.execution.train(batch)
        if (batch_idx + 1) % self.accumulate == 0:
            self._step_scheduler("step")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Refuse a subclass that trains past the pipeline."""
        if not self.execution.audits.step:
            name = type(self).__name__
            raise UserError(
                f"{name}.training_step trains no pipeline; call super().training_step(batch, batch_idx) there, and "
                f"give {name} what it computes as loss=..."
            )

    def on_train_epoch_end(self) -> None:
        """Look at the weights; log the epoch's means and rate; step an epoch-wise scheduler."""
        self.execution.end_epoch()
        self._log_totals("train")
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("learning_rate", rate, prog_bar=True, logger=False)
        self._step_scheduler("epoch")
        self._epoch_ended, self._end_is_due = True, False

    def on_validation_model_eval(self) -> None:
        """Note the weights before any callback of a validation, which may put others in their places until it ends."""
        self.execution.note_weights()
        super().on_validation_model_eval()

    def on_validation_epoch_start(self) -> None:
        """Show validation the weights and buffers of the epoch's end."""
        self.execution.start_evaluation("val")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy of the latest weights."""
        _check_single(dataloader_idx)
        self.execution.evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the validation data."""
        self._log_totals("val")

    def on_test_epoch_start(self) -> None:
        """Begin with no mini-batches counted."""
        self.execution.start_evaluation("test")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> Tensor | None:
        """Loss and accuracy of the latest weights; returns the outputs (B, ...), where one process has all stages."""
        _check_single(dataloader_idx)
        return self.execution.evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the means over the test data."""
        self._log_totals("test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Outputs of the latest weights for the inputs of ``(x, y)``, or for ``x`` alone; in every process."""
        return self.execution.predict(batch)

    def on_fit_end(self) -> None:
        """The parameters get memory of their own again, as those of any other module."""
        self.execution.release()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a bit-exact continuation needs beside weights and optimizer."""
        saved = self.execution.state_dict() | {"rng": torch.get_rng_state(), "epoch_ended": self._epoch_ended}
        if self.device.type == "cuda":
            saved["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        checkpoint["pipeline"] = saved
        note_resumed(checkpoint, self)
        kept = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in LOGGED:
            if kept.get(name) == self._saved_hparams[name]:  # else it is a subclass's own
                kept.pop(name, None)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep it until training starts on its device, if it is training that goes on."""
        fitting = self._trainer is not None and self._trainer.state.fn == pl.trainer.states.TrainerFn.FITTING
        self._checkpoint = checkpoint if fitting else None

    @property
    def _resumed(self) -> dict[str, Any] | None:
        return None if self._checkpoint is None else self._checkpoint.get("pipeline")

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        except NotImplementedError:
            empty = [name for name, tensor in self.state_dict().items() if tensor.is_meta]
            if not empty:
                raise
            raise UserError(
                f"{empty[0]} is on the meta device, so it has no numbers; give it some before fit(): "
                "to_empty(device='cpu') and the layers' reset_parameters()"
            ) from None

    def _call_batch_hook(self, hook_name: str, *args: Any) -> Any:
        """A number stands for a mini-batch that another process reads: there is nothing to send or change."""
        return args[0] if isinstance(args[0], int) else super()._call_batch_hook(hook_name, *args)

    def _log_totals(self, phase: str) -> None:
        for name, value in self.execution.results(phase).items():
            self.log(f"{phase}_{name}", value, prog_bar=name == "loss")

    def _save_changed_hparams(self) -> None:
        """Save all of them at first, later those whose attribute was changed; a subclass may have saved others."""
        now = hparams(self)
        self.save_hyperparameters(
            {n: v for n, v in now.items() if n not in self._saved_hparams or self._saved_hparams[n] != v}
        )
        self._saved_hparams = now

    def _step_scheduler(self, interval: Literal["epoch", "step"]) -> None:
        if self.make_scheduler is None or self.scheduler_interval != interval:
            return
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()  # type: ignore[union-attr]
            use_plain_numbers(scheduler.optimizer)  # type: ignore[union-attr]


def _check_single(dataloader_idx: int) -> None:
    if dataloader_idx:
        raise UserError("there are several validation or test data loaders; give one, and evaluate one after the other")
