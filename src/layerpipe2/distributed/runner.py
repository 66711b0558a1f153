"""How a ``PipelinedModule`` trains as one process of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from layerpipe2.distributed.data_feed import Ahead, Feed
from layerpipe2.distributed.facts import facts, fingerprint
from layerpipe2.distributed.links import Inbox, Outbox
from layerpipe2.distributed.process_stage import LocalStage
from layerpipe2.distributed.worker_loop import Batch, Neighbours, Program
from layerpipe2.engine.layout import trainable
from layerpipe2.engine.random_streams import RandomStream
from layerpipe2.engine.simulation import Execution, made_optimizer
from layerpipe2.engine.step_limit import StepLimit
from layerpipe2.errors import UserError
from layerpipe2.stages import check_stages

if TYPE_CHECKING:
    from layerpipe2.distributed.strategy import PipelineStrategy
    from layerpipe2.engine.module import PipelinedModule

_EVALUATION = {"val": 2, "test": 3}


class Runner(Execution):
    """The stages of this process, between its neighbours.

    Args:
        module: the whole network; the stages of other processes are dropped from it.
        strategy: knows the rank, the other processes and which stages are whose.
    """

    def __init__(self, module: PipelinedModule, strategy: PipelineStrategy) -> None:
        super().__init__(module)
        self.strategy = strategy
        self.mine = strategy.stages_of(strategy.global_rank, module.delays.num_stages)
        if isinstance(module.stages, nn.ModuleList):
            check_stages(list(module.stages))
            strategy.network = fingerprint(module.stages)
            module.stages = nn.ModuleDict({str(k): module.stages[k] for k in self.mine})  # type: ignore[assignment]
        self.stages: dict[int, nn.Module] = {int(k): stage for k, stage in module.stages.items()}  # type: ignore[operator]
        self.program: Program | None = None
        self._evaluation: dict[str, tuple[Inbox | None, Outbox | None]] = {}
        self._endpoint = strategy.endpoint()
        self._ahead: Ahead | None = None
        self._epoch = 0

    @property
    def trained(self) -> dict[int, bool]:
        """Stage -> whether it has something to train, hence an optimizer."""
        return {k: any(trainable(p) for p in stage.parameters()) for k, stage in self.stages.items()}

    def check(self) -> None:
        """Delays that a pipeline can have, CPUs or CUDA, one data loader for all epochs, native precision."""
        module = self.module
        if not module.delays.is_realizable:
            raise UserError(f"delays {list(module.delays.per_stage)} grow towards the output, which no pipeline can "
                            "have; give delays that don't")  # fmt: skip
        if not isinstance(module.trainer.accelerator, CPUAccelerator | CUDAAccelerator):
            raise UserError("pipelines of several processes run on CPUs or NVIDIA GPUs; give the Trainer "
                            "accelerator='cpu'")  # fmt: skip
        if module.trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
            raise UserError("a pipeline of several processes reads ahead into the next epoch; leave "
                            "reload_dataloaders_every_n_epochs alone")  # fmt: skip
        if module.precision != "native" or "16" in str(module.trainer.precision):
            raise UserError("a pipeline of several processes computes in the parameters' own type; leave precision and "
                            "the Trainer's precision alone")  # fmt: skip

    def optimizers(self) -> Any:
        """An optimizer per stage that has something to train, so that a checkpoint can be cut by stage.

        A process without such a stage gets one that moves nothing: by its steps the ``Trainer`` counts the updates.
        """
        module = self.module
        made = [
            made_optimizer(module.make_optimizer, stage.parameters())
            for k, stage in self.stages.items()
            if self.trained[k]
        ]
        made = made or [made_optimizer(module.make_optimizer, [nn.Parameter(torch.zeros(1))])]
        if module.make_scheduler is None:
            return made
        schedulers = [module.make_scheduler(optimizer) for optimizer in made]
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise UserError("ReduceLROnPlateau waits for a metric, which a pipeline doesn't give it; take a scheduler "
                            "that depends on the step or epoch alone")  # fmt: skip
        return made, [{"scheduler": scheduler} for scheduler in schedulers]

    def start(self, resumed: Mapping[str, Any] | None) -> None:
        """Connect to the neighbours; lay the stages out; where a checkpoint left mini-batches in flight, rerun them."""
        module, trainer = self.module, self.module.trainer
        self.strategy.agree(facts(module, self.strategy.network, self._optimizers()[0]))
        seed = module.stage_seed or 0
        stages = [
            LocalStage(stage, k, module.delays.per_stage[k], module.history, optimizer, seed=seed,
                       device=self.strategy.root_device, gradient_clip_norm=module.gradient_clip_norm,
                       split_backward=self.strategy.split_backward)
            for (k, stage), optimizer in zip(self.stages.items(), self._given_optimizers(), strict=True)
        ]  # fmt: skip
        neighbours = Neighbours.of(self._endpoint, module.delays.per_stage, self.mine[0], self.mine[-1])
        self.program = Program(
            stages,
            neighbours,
            self._next_batch,
            module.loss,
            self.totals["train"],
            self.strategy.timeline,
            check_finite=self.strategy.check_finite,
            resumable=self._resumable(),
        )
        done = 0
        if resumed is not None:
            done = int(resumed["done"])
            for k, settled in zip(self.stages, self.program.settled, strict=True):
                settled.load_state_dict(resumed["stages"][k], done, in_flight=not module.drain)
        self._batches = int(trainer.num_training_batches)
        self._epoch = trainer.current_epoch - 1
        if self.strategy.is_global_zero:
            stream = None if module.drain else _stream_of_data(resumed)
            self._ahead = Ahead(self._feed(), trainer.current_epoch, self._batches, self._prepared, stream)
        if not module.drain:
            self.program.start(self._remaining(), epoch=self._batches, done=done)

    def start_epoch(self) -> None:
        """Audit the next forward passes; with ``drain``, begin with an empty pipeline."""
        program = self._running()
        self._epoch += 1
        if self._ahead is not None:
            self._ahead.forget(self._epoch)
        for stage in program.stages:
            stage.audit_next()
        if self.module.drain:
            for stage in program.stages:
                stage.refill()
            program.start(min(self._batches, self._remaining()), epoch=self._batches)

    def train(self, batch: Any) -> None:
        """This process's share of one step."""
        program = self._running()
        self.strategy.watch.progress(program.done)
        program.step()
        if not any(self.trained.values()):
            self._optimizers()[0].step()

    def start_evaluation(self) -> None:
        """Stages that have already seen later mini-batches show the buffers as of the last update."""
        if self.program is None:
            return
        self.program.pause()
        for settled in self.program.settled:
            settled.exchange(self.program.done)

    def evaluate(self, phase: str, batch: Any) -> None:
        """Pass one mini-batch on; the last process adds up."""
        self.strategy.watch.progress(self.program.done if self.program else 0)
        inbox, outbox = self._evaluation_links(phase)
        if inbox is None:
            x, y = batch
        else:
            inbox.expect(1)
            x, y = inbox.receive()
        for stage in self.stages.values():
            x = stage(x)
        if outbox is None:
            self.totals[phase].add(self.module.loss(x, y), x, y)
        else:
            outbox.send(x, y)

    def results(self, phase: str) -> dict[str, Tensor]:
        """The last process's means, in every process."""
        if phase == "val":
            self.start_evaluation()  # the second exchange puts the buffers back
        # By way of the host: a tensor of the last process's GPU would arrive on that GPU here.
        return self.strategy.from_last({name: value.cpu() for name, value in self.totals[phase].drain().items()})

    def state_dict(self) -> dict[str, Any]:
        """Per stage, what its continuation needs.

        Raises:
            UserError: in the middle of an epoch, when mini-batches are in flight.
        """
        program = self._running()
        if program.done % self._batches and program.done < program.limit:
            raise UserError("a pipeline of several processes saves at the end of an epoch only; drop "
                            "every_n_train_steps and the like, or give ModelCheckpoint(save_on_train_epoch_end=True) "
                            "where validation runs more often")  # fmt: skip
        stages = {k: s.state_dict(program.done) for k, s in zip(self.stages, program.settled, strict=True)}
        data = None if self._ahead is None else self._ahead.random(self._epoch + 1)
        return {"stages": stages, "done": 0 if self.module.drain else program.done, "data": data}

    def stop(self) -> None:
        """After training: the module and the random numbers are left as of the last update."""
        program = self._running()
        program.stop()
        for settled in program.settled:
            settled.stop(program.done)
        random = self._ahead.random(self._epoch + 1) if self._ahead is not None else None
        if random is not None:
            torch.set_rng_state(random[0])

    def _running(self) -> Program:
        assert self.program is not None, "training has not started"
        return self.program

    def _resumable(self) -> bool:
        wanted = self.strategy.resumable
        return bool(self.module.trainer.checkpoint_callbacks) if wanted is None else wanted

    def _remaining(self) -> float:
        trainer = self.module.trainer
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - trainer.current_epoch
        steps = math.inf if trainer.max_steps == -1 else trainer.max_steps - trainer.global_step
        done = trainer.current_epoch * self._batches
        limits = [c.max_steps - done for c in trainer.callbacks if isinstance(c, StepLimit)]  # type: ignore[attr-defined]
        return min(epochs * self._batches, steps, *limits)

    def _given_optimizers(self) -> list[Any]:
        """One per stage or ``None``."""
        ready = iter(self._optimizers())
        return [next(ready) if trains else None for trains in self.trained.values()]

    def _optimizers(self) -> list[Any]:
        """The first is Lightning's wrapper, whose steps the ``Trainer`` counts."""
        wrapped, plain = self.module.optimizers(), self.module.optimizers(use_pl_optimizer=False)
        return [wrapped[0], *plain[1:]] if isinstance(wrapped, list) else [wrapped]  # type: ignore[index]

    def _feed(self) -> Feed:
        feed = self.module.trainer.train_dataloader
        if not isinstance(feed, Feed):
            raise UserError(f"training data are a {type(feed).__name__}; a pipeline of several processes takes one "
                            "data loader")  # fmt: skip
        return feed

    def _next_batch(self) -> Batch:
        assert self._ahead is not None, "another process reads the data"
        x, y = next(self._ahead)
        return x, y

    def _prepared(self, batch: Any) -> Any:
        """What the ``Trainer`` does with a mini-batch, the hooks of a data module included."""
        trainer = self.module.trainer
        batch = trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self.strategy.batch_to_device(batch, dataloader_idx=0)

    def _evaluation_links(self, phase: str) -> tuple[Inbox | None, Outbox | None]:
        if phase not in self._evaluation:
            tag = _EVALUATION[phase]
            inbox = self._endpoint.inbox(-1, tag, slots=2, ahead=1)
            self._evaluation[phase] = inbox, self._endpoint.outbox(+1, tag, depth=2)
        return self._evaluation[phase]


def _stream_of_data(resumed: Mapping[str, Any] | None) -> RandomStream:
    stream = RandomStream(0, 0, torch.device("cpu"))
    stream.load_state_dict([torch.get_rng_state()] if resumed is None else resumed["data"])
    return stream
