"""How a ``PipelinedModule`` trains as one process of several."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layerpipe2.engine.accumulation import check_epoch, check_whole
from layerpipe2.engine.execution import Execution, StagedModule
from layerpipe2.engine.layout import movable
from layerpipe2.engine.side_channels import SideChannels
from layerpipe2.engine.stage import Stage
from layerpipe2.errors import UserError
from layerpipe2.pipeline import training_settings as settings
from layerpipe2.pipeline.data_loading import ReadAhead, stream_of_data
from layerpipe2.pipeline.in_flight import InFlight
from layerpipe2.pipeline.memory import StageMemory
from layerpipe2.pipeline.neighbours import Endpoint, Evaluation, Neighbours
from layerpipe2.pipeline.process_group import ProcessGroup
from layerpipe2.pipeline.stage_optimizers import Everywhere, StageOptimizers
from layerpipe2.pipeline.timeline import SpanRecorder
from layerpipe2.pipeline.watched_loss import WatchedLoss
from layerpipe2.pipeline.worker_loop import Batch, WorkerLoop
from layerpipe2.stages import check_stages


class Options(NamedTuple):
    """What :class:`layerpipe2.pipeline.strategy.PipelineStrategy` was asked for; it explains them."""

    split_backward: bool
    recompute_activations: bool
    check_finite: bool
    resumable: bool | None
    timeline: SpanRecorder | None


class Runner(Execution):
    """The stages of this process, between its neighbours.

    Args:
        module: the whole network; the stages of other processes are dropped from it.
        mine: numbers of the stages of this process.
        group: the processes.
        endpoint: makes links to the neighbours.
        options: how to train.

    Attributes:
        trained: stage -> whether it has something to train, hence an optimizer; from :meth:`optimizers` on.
    """

    fixed = (*Execution.fixed, "drain", "loss")

    def __init__(
        self, module: StagedModule, mine: list[int], group: ProcessGroup, endpoint: Endpoint, options: Options
    ) -> None:
        super().__init__(module)
        self.mine, self.group, self.options = mine, group, options
        earlier = getattr(module, "execution", None)
        self.network: str = getattr(earlier, "network", "")
        self._everywhere: Any = getattr(earlier, "_everywhere", None)
        if isinstance(module.stages, nn.ModuleList):
            check_stages(list(module.stages))
            self.network = settings.fingerprint(module.stages)  # of the whole one: other processes' stages are dropped
            self._everywhere = Everywhere(module.stages)
            module.stages = nn.ModuleDict({str(k): module.stages[k] for k in mine})  # type: ignore[assignment]
        self.stages: dict[int, nn.Module] = {int(k): stage for k, stage in module.stages.items()}  # type: ignore[operator]
        self.trained: dict[int, bool] = {}
        self._own_optimizers: dict[int, Any] = {}
        self._given: list[Any] = []
        self._loss = WatchedLoss(module)
        self.loop: WorkerLoop | None = None
        self._endpoint, self._evaluation, self._epoch = endpoint, Evaluation(endpoint), 0
        self._ahead: ReadAhead | None = None

    def check(self) -> None:
        """Delays that a pipeline can have, CPUs or CUDA, one data loader for all epochs, native precision."""
        settings.check_trainer(self.module)

    def optimizers(self) -> Any:
        """An optimizer per stage that has something to train, so that a checkpoint can be cut by stage.

        Raises:
            UserError: if what the user's optimizer is over all stages can't be cut so.
        """
        frozen_too = self.module.delays_frozen
        self.trained = {k: any(movable(p, frozen_too) for p in stage.parameters()) for k, stage in self.stages.items()}
        trained = [k for k, trains in self.trained.items() if trains]
        return StageOptimizers(self.module, self._everywhere, self.stages).make(trained)

    def start(self, resumed: Mapping[str, Any] | None) -> None:
        """Connect to the neighbours; lay the stages out; where a checkpoint left mini-batches in flight, rerun them."""
        module, trainer = self.module, self.module.trainer
        check_epoch(module.accumulate, trainer.num_training_batches)
        self.group.agree(settings.training_settings(module, self.network, self._optimizers()[0]))
        self._given = trainer.optimizers
        ready = iter(self._optimizers())
        optimizers = {k: next(ready) if trains else None for k, trains in self.trained.items()}
        self._own_optimizers = {k: getattr(one, "optimizer", one) for k, one in optimizers.items() if one is not None}
        how = {
            "split_backward": self.options.split_backward,
            "recompute_activations": self.options.recompute_activations,
        }
        stages = {k: self._stage(k) for k in optimizers}
        channels = SideChannels(lambda: self._owned(stages.values()))
        passes = []
        for k, optimizer in optimizers.items():
            # A stage that runs ahead leaves nothing for others of this process without an audit of its pass.
            audits = 2 + stages[k].delay if len(stages) > 1 else 2
            passes.append(InFlight(stages[k], optimizer, channels=channels, audits=audits, **how))
        wanted = self.options.resumable
        self.loop = WorkerLoop(
            passes,
            Neighbours.of(self._endpoint, module.delays.per_stage, self.mine[0], self.mine[-1]),
            self._next_batch,
            self._loss,
            self.totals["train"],
            self.options.timeline,
            check_finite=self.options.check_finite,
            resumable=bool(trainer.checkpoint_callbacks) if wanted is None else wanted,
        )
        self._watch_loss(self.loop)
        done = 0
        if resumed is not None:
            done = int(resumed["done"])
            for k, snapshots in zip(self.stages, self.loop.snapshots, strict=True):
                snapshots.load_state_dict(resumed["stages"][k], done, in_flight=not module.drain)
        self.note_network()
        self._batches, self._epoch = int(trainer.num_training_batches), trainer.current_epoch - 1
        if self.group.rank == 0:
            stream = None if module.drain else stream_of_data(None if resumed is None else resumed["data"])
            self._ahead = ReadAhead(module, stream)
        if not module.drain:
            self.loop.start(settings.remaining_batches(module), epoch=self._batches, done=done)

    def _watch_loss(self, loop: WorkerLoop) -> None:
        """Watch the loss: its random numbers must be those of one process, its buffers the last stage's."""
        module = self.module
        if self.group.size > 1 or not module.drain:  # else the loader draws here, from the default generator
            self._loss.note(module.trainer.train_dataloader)
        if isinstance(module.loss, nn.Module) and self.group.rank == self.group.size - 1:
            loop.snapshots[-1].include(module.loss, loop.oldest_targets)

    def _owned(self, stages: Iterable[Stage]) -> Iterator[tuple[int, Tensor]]:
        """The parameters that may move, with the number of their stage: also those of others that are still there."""
        yield from ((stage.index, p) for stage in stages for p in stage.moving)
        others = ((k, p) for k, p in self._everywhere.alive() if k not in self.mine)
        yield from ((k, p) for k, p in others if movable(p, self.module.delays_frozen))

    def _stage(self, k: int) -> Stage:
        module, step = self.module, torch.zeros(1, dtype=torch.int64, device=self.group.device)
        return Stage(
            self.stages[k],
            k,
            module.delays.per_stage[k],
            module.strategy,
            step,
            ahead=True,
            trains=self.trained[k],
            seed=module.stage_seed or 0,
            gradient_clip_norm=module.gradient_clip_norm,
            accumulate=module.accumulate,
            unfreezes=module.delays_frozen,
        )

    def note_weights(self) -> None:
        """Note the weights of all of its stages, if training has begun."""
        for one in self.loop.passes if self.loop is not None else ():
            one.watch.note()

    def release(self) -> None:
        """Release the parameters of this process's stages."""
        for stage in self.loop.stages if self.loop is not None else ():
            if stage.weights is not None:
                stage.weights.release()

    def start_epoch(self) -> None:
        """Begin with an empty pipeline, with ``drain``."""
        loop, self._epoch = self._running(), self._epoch + 1
        self.audits.start_epoch(self._epoch, self._batches)
        if self._ahead is not None:
            self._ahead.forget(self._epoch)
        if self.module.drain:
            for one in loop.passes:
                one.refill()
            loop.start(
                min(self._batches, settings.remaining_batches(self.module)),
                epoch=self._batches,
            )

    def train(self, batch: Any) -> None:
        """This process's share of one step."""
        loop = self._running()
        self.group.watch.progress(loop.done)
        for snapshots in loop.snapshots:
            snapshots.take_over(loop.done)
        self._loss.looks = self.audits.due
        if self.audits.due:
            self.check_network()
            for one in loop.passes:
                one.audit_next()
        settings.check_given(self.module.trainer.optimizers, self._given)
        settings.check_alike(self._own_optimizers)
        loop.step()
        self.audits.step += 1
        if self.audits.due or self.audits.step == self._batches:
            self.note_weights()
        if not any(self.trained.values()) and loop.done % self.module.accumulate == 0:
            self._optimizers()[0].step()

    def end_epoch(self) -> None:
        """Look at weights and parameters; with ``drain``, they may change between two epochs."""
        self.check_network()
        settings.check_alike_everywhere(self.group.gather(settings.rates(self._own_optimizers)))
        loop = self._running()
        check_whole(loop.stages[0].waiting, self.module.accumulate)
        for one in loop.passes if not self.module.drain else ():
            one.watch.check()

    def start_evaluation(self, phase: str) -> None:
        """Stages that have already seen later mini-batches show the buffers as of the last update."""
        super().start_evaluation(phase)
        trainer: Any = self.module.trainer
        self._loss.looks = True
        if self.group.size > 1 and not trainer.sanity_checking:  # which leaves no trace in the generator
            self._loss.note(trainer.val_dataloaders if phase == "val" else trainer.test_dataloaders)
        if phase == "val":
            self._swap_buffers()

    def _swap_buffers(self) -> None:
        if self.loop is not None:
            self.loop.pause()
            for snapshots in self.loop.snapshots:
                snapshots.swap_buffers(self.loop.done)

    def evaluate(self, phase: str, batch: Any) -> None:
        """Pass one mini-batch on; the last process adds up."""
        self.group.watch.progress(self.loop.done if self.loop else 0)
        pair = self.module.batch_format.pair(batch) if self.group.rank == 0 else ()
        found = self._evaluation.pass_on(phase, self.stages, pair)
        if found is not None:
            outputs, targets = found
            self.totals[phase].add(self._loss(outputs, targets), outputs, targets)
            self._loss.looks = False

    def predict(self, batch: Any) -> Tensor:
        """Pass one mini-batch on; the last process gives its outputs to all."""
        self.group.watch.progress(self.loop.done if self.loop else 0)
        inputs = [self.module.batch_format.inputs_of(batch)] if self.group.rank == 0 else []
        found = self._evaluation.pass_on("test", self.stages, inputs)
        return self.group.broadcast_tensor(None if found is None else found[0].clone(), self.group.size - 1).to(
            self.group.device
        )

    def results(self, phase: str) -> dict[str, Tensor]:
        """The last process's means, in every process."""
        if phase == "val":
            self._swap_buffers()  # the second swap puts the buffers back
        means = self.totals[phase].take_means()
        numbers = {name: (value.item(), str(value.dtype).removeprefix("torch.")) for name, value in means.items()}
        found = self.group.broadcast(numbers, self.group.size - 1)
        return {name: torch.tensor(value, dtype=getattr(torch, kind)) for name, (value, kind) in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Per stage, what its continuation needs.

        Raises:
            UserError: in the middle of an epoch, when mini-batches are in flight.
        """
        loop = self._running()
        if loop.done % self._batches and loop.done < loop.limit:
            raise UserError(
                "a pipeline of several processes saves at the end of an epoch only; drop every_n_train_steps and the "
                "like, or give ModelCheckpoint(save_on_train_epoch_end=True) where validation runs more often"
            )
        check_whole(loop.stages[0].waiting, self.module.accumulate)
        stages = {k: s.state_dict(loop.done) for k, s in zip(self.stages, loop.snapshots, strict=True)}
        data = None if self._ahead is None else self._ahead.random_state(self._epoch + 1)
        return {"stages": stages, "done": 0 if self.module.drain else loop.done, "data": data}

    def memory(self) -> list[StageMemory]:
        """What each stage of this process holds."""
        snapshots = self.loop.snapshots if self.loop else []
        return [StageMemory.of(one.passes, self.group.rank, one.peak_bytes) for one in snapshots]

    def stop(self) -> None:
        """Leave the module and the random numbers as of the last update, after training."""
        self._running().stop()
        random = self._ahead.random_state(self._epoch + 1) if self._ahead is not None else None
        if random is not None:
            torch.set_rng_state(random[0])

    def _running(self) -> WorkerLoop:
        assert self.loop is not None, "training has not started"
        return self.loop

    def _optimizers(self) -> list[Any]:
        """The first is Lightning's wrapper, whose steps the ``Trainer`` counts."""
        wrapped, plain = self.module.optimizers(), self.module.optimizers(use_pl_optimizer=False)
        return [wrapped[0], *plain[1:]] if isinstance(wrapped, list) else [wrapped]  # type: ignore[index]

    def _next_batch(self) -> Batch:
        assert self._ahead is not None, "another process reads the data"
        return self.module.batch_format.pair(next(self._ahead))
