"""Lightning's view of a pipeline of several processes: ``Trainer(strategy=PipelineStrategy())``, under ``torchrun``.

The user's script, data module, loggers and callbacks stay as they are. Every process runs the ``Trainer``; each holds
only its own stages, and the same metrics.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.execution import StagedModule
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl, warn_of_two
from layerpipe2.pipeline import checkpoint as checkpoints
from layerpipe2.pipeline.data_loading import FirstStageLoader
from layerpipe2.pipeline.devices import describe, own_device
from layerpipe2.pipeline.memory import StageMemory
from layerpipe2.pipeline.neighbours import Endpoint
from layerpipe2.pipeline.process_group import ProcessGroup
from layerpipe2.pipeline.runner import Options, Runner
from layerpipe2.pipeline.timeline import Span, SpanRecorder

T = TypeVar("T")

AS_PIPELINE = """these lines train its layers, with the loss of its training_step and its optimizer:
    from layerpipe2 import PipelinedModule, cut
    inputs, targets = next(iter(loader))
    stages = cut(module, inputs, stages=2)
    pipeline = PipelinedModule(stages, "layerpipe2", "ema-lsq", loss="cross_entropy", optimizer=torch.optim.SGD)
    trainer.fit(pipeline, loader)"""
"""What a user does with a LightningModule of another kind."""


class PipelineStrategy(pl.strategies.SingleDeviceStrategy):
    """One process per group of consecutive stages, on CPUs or (not tried yet, see docs/cluster.md) a GPU each.

    The results are those of one process with the same ``PipelinedModule(stage_seed=...)`` (``None`` is 0 here), on CPUs
    bit for bit, if the order of the data does not hang on torch's default generator: give a shuffled ``DataLoader`` a
    ``generator`` of its own. A callback that changes how a stage computes (a dropout rate, a frozen BatchNorm) takes
    effect up to ``d`` mini-batches later than in one process: those are already on their way.

    Args:
        stages_per_process: how many stages each process takes, input side first; by default as evenly as possible.
        timeout_s: seconds after which a process that does not answer counts as failed.
        split_backward: compute the gradient of a stage's input, which the neighbour waits for, before those of its
            weights. The results stay the same.
        recompute_activations: of the mini-batches in flight keep only what came into a stage, and run its forward pass
            again before the backward pass, with the weights of then: with exact stashing the results stay the same.
        check_finite: end all processes, naming the stage, at the first activation, loss or gradient that is not finite.
        resumable: keep what a checkpoint of a full pipeline needs: for methods that keep no stash up to ``d`` copies of
            the weights, during the last ``d`` updates of every epoch. By default if the ``Trainer`` has a checkpoint
            callback. Not needed with ``drain``.
        timeline: takes time stamps of this process, if wanted.

    Attributes:
        processes: how many there are.
        memory: after training, what each stage of the whole pipeline holds.
        events: after training, what every process did when, if they all have a ``timeline``; draw it, or show it in a
            browser with :func:`layerpipe2.pipeline.timeline.chrome_trace`.

    Raises:
        UserError: when training starts, if the script was not started by ``layerpipe2 launch`` or ``torchrun``, or
            processes and stages don't fit.
    """

    strategy_name = "pipeline"

    def __init__(
        self,
        stages_per_process: Sequence[int] | None = None,
        *,
        timeout_s: float = 60.0,
        split_backward: bool = False,
        recompute_activations: bool = False,
        check_finite: bool = True,
        resumable: bool | None = None,
        timeline: SpanRecorder | None = None,
    ) -> None:
        warn_of_two()
        super().__init__(device="cpu")  # until the launcher has said which device is this process's
        self.stages_per_process, self.timeout_s, self.timeline = stages_per_process, timeout_s, timeline
        self.options = Options(split_backward, recompute_activations, check_finite, resumable, timeline)
        # Lightning's own world stays one process: in a larger one it lets all wait for the first before every batch.
        self.processes = 1
        self.memory: list[StageMemory] = []
        self.events: list[list[Span]] = []
        self._group: ProcessGroup | None = None

    @property
    def group(self) -> ProcessGroup:
        """The processes, while the ``Trainer`` works."""
        assert self._group is not None, "the Trainer joins the other processes first"
        return self._group

    def setup_environment(self) -> None:
        """Join the other processes, see that they run the same code, and begin to watch over them."""
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))  # the first one on each machine prepares the data
        self._root_device = own_device(self.accelerator)
        self._group = ProcessGroup(self.root_device, self.timeout_s)
        keep_freed_memory()
        self.global_rank, self.processes = self._group.rank, self._group.size
        if self.is_global_zero and (notice := describe(self.root_device, self.processes)) is not None:
            pl.utilities.rank_zero_info(f"layerpipe2: {notice}")
        # Nothing is to be reduced: every process logs the last one's metrics.
        warnings.filterwarnings("ignore", message=".*recommended to use .self.log.*sync_dist=True")
        super().setup_environment()

    def on_exception(self, exception: BaseException) -> None:
        """Tell the other processes why this one ends."""
        if self._group is not None:
            self._group.fail(exception)

    def teardown(self) -> None:
        """Stop watching: the others may end."""
        if self._group is not None:
            self._group.close()
        super().teardown()

    def execution(self, module: StagedModule) -> Runner:
        """This process's part of ``module``."""
        mine = self.stages_of(self.global_rank, module.delays.num_stages)
        return Runner(module, mine, self.group, self.endpoint(), self.options)

    def endpoint(self) -> Endpoint:
        """Makes links to the neighbours."""
        return self.group.endpoint()

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process with the first stage, which also writes what all have in common."""
        return self.global_rank == 0

    def stages_of(self, rank: int, num_stages: int) -> list[int]:
        """The stages that process ``rank`` owns.

        Raises:
            UserError: if there are fewer stages than processes, or ``stages_per_process`` does not add up.
        """
        world, counts = self.processes, self.stages_per_process
        if counts is None:
            if num_stages < world:
                raise UserError(f"{num_stages} stages for {world} processes; start at most one process per stage")
            counts = [(i + 1) * num_stages // world - i * num_stages // world for i in range(world)]
        if len(counts) != world or sum(counts) != num_stages or min(counts) < 1:
            remedy = f"give {world} numbers that add up to {num_stages}, one per process"
            raise UserError(f"stages_per_process is {list(counts)}; {remedy}")
        start = sum(counts[:rank])
        return list(range(start, start + counts[rank]))

    def on_train_end(self) -> None:
        """Leave module and random numbers in order; note, in every process, what each stage of the pipeline holds."""
        self._runner().stop()
        mine = [asdict(row) for row in self._runner().memory()]
        self.memory = [StageMemory(**row) for part in self.group.gather(mine) for row in part]
        found = self.group.gather(self.timeline.events) if self.timeline is not None else []
        self.events = [[Span(*event) for event in part] for part in found]

    def broadcast(self, obj: T, src: int = 0) -> T:
        """``obj`` of process ``src``, by way of JSON."""
        return cast(T, self.group.broadcast(obj, src))

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes (or any) decide so: where callbacks must do the same everywhere."""
        votes = torch.tensor(int(decision))
        self.group.together(lambda: dist.all_reduce(votes, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX))
        return bool(votes)

    def barrier(self, name: str | None = None) -> None:
        """Wait for all processes."""
        self.group.together(dist.barrier)

    def process_dataloader(self, dataloader: object) -> FirstStageLoader:
        """Only the process with the first stage reads data.

        Raises:
            UserError: if it's not a ``PipelinedModule`` that is trained, or the data have no length.
        """
        self._runner()
        return FirstStageLoader(cast(Any, dataloader), reads=self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A folder with one file per stage; see :mod:`layerpipe2.pipeline.checkpoint`."""
        runner = self._runner()
        common, parts = checkpoints.split_by_stage(checkpoint, runner.trained, runner.module.delays.num_stages - 1)
        mark = self.broadcast(token_hex())
        checkpoints.write(Path(filepath), common, parts, mark=mark, first=self.is_global_zero, barrier=self.barrier)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """This process's stages from such a folder; ``weights_only`` is True unless it is given as False."""
        stages, module = self._runner().mine, self._runner().module
        checkpoint = checkpoints.read(Path(checkpoint_path), stages, weights_only=weights_only is not False)
        if module.delays.num_stages - 1 not in stages:  # nothing here reads a loss's buffers
            own = {name: value for name, value in module.state_dict().items() if checkpoints.of_none(name)}
            checkpoint["state_dict"] = own | checkpoint["state_dict"]
        for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, pl.callbacks.BaseFinetuning):  # it knows the first process's parameters, needs none
                checkpoint.get("callbacks", {}).pop(callback.state_key, None)
        return checkpoint

    def remove_checkpoint(self, filepath: Any) -> None:
        """Delete such a folder."""
        if self.is_global_zero:
            checkpoints.remove(Path(filepath))

    def _runner(self) -> Runner:
        module = self.lightning_module
        if not isinstance(module, PipelinedModule) or not isinstance(module.execution, Runner):
            raise UserError(f"PipelineStrategy trains a PipelinedModule, not a {type(module).__name__}; {AS_PIPELINE}")
        return module.execution
