"""Lightning's view of a pipeline of several processes: ``Trainer(strategy=PipelineStrategy())``, under ``torchrun``.

The user's script, data module, loggers and callbacks stay as they are. Every process runs the ``Trainer``; each holds
only its own stages, and the same metrics.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import SingleDeviceStrategy

from layerpipe2.errors import UserError
from layerpipe2.pipeline import PipelinedModule
from layerpipe2.runtime import checkpoint as checkpoints
from layerpipe2.runtime.feed import Feed
from layerpipe2.runtime.links import Inbox, Outbox, Watch
from layerpipe2.runtime.memory import StageMemory
from layerpipe2.runtime.runner import Runner
from layerpipe2.runtime.timeline import Timeline

T = TypeVar("T")


class PipelineStrategy(SingleDeviceStrategy):
    """One process per group of consecutive stages.

    Args:
        stages_per_process: how many stages each process takes, input side first; by default as evenly as possible.
        timeout_s: seconds after which a process that does not answer is given up.
        split_backward: compute the gradient of a stage's input, which the neighbour waits for, before those of its
            weights. The results stay the same.
        timeline: takes time stamps of this process, if wanted.

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
        timeline: Timeline | None = None,
    ) -> None:
        super().__init__(device="cpu")
        self.stages_per_process = stages_per_process
        self.timeout = timedelta(seconds=timeout_s)
        self.split_backward, self.timeline = split_backward, timeline
        self.watch = Watch()

    def setup_environment(self) -> None:
        """Join the process group."""
        if not dist.is_initialized():
            if not dist.is_torchelastic_launched():
                raise UserError("a pipeline of several processes needs a launcher; start the script with "
                                "`layerpipe2 launch --processes N SCRIPT` or torchrun")  # fmt: skip
            dist.init_process_group("gloo", timeout=self.timeout)
        # Nothing is to be reduced: every process logs the last one's metrics.
        warnings.filterwarnings("ignore", message=".*recommended to use .self.log.*sync_dist=True")
        self.global_rank, self.world_size = dist.get_rank(), dist.get_world_size()
        super().setup_environment()

    def execution(self, module: PipelinedModule) -> Runner:
        """This process's part of ``module``."""
        return Runner(module, self)

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process with the first stage, which also writes what all have in common."""
        return self.global_rank == 0

    def stages_of(self, rank: int, num_stages: int) -> list[int]:
        """The stages that process ``rank`` owns.

        Raises:
            UserError: if there are fewer stages than processes, or ``stages_per_process`` does not add up.
        """
        world = self.world_size
        counts = self.stages_per_process
        if counts is None:
            if num_stages < world:
                raise UserError(f"{num_stages} stages for {world} processes; start at most one process per stage")
            counts = [(i + 1) * num_stages // world - i * num_stages // world for i in range(world)]
        if len(counts) != world or sum(counts) != num_stages or min(counts) < 1:
            raise UserError(f"stages_per_process is {list(counts)}; give {world} numbers that add up to {num_stages}, "
                            "one per process")  # fmt: skip
        start = sum(counts[:rank])
        return list(range(start, start + counts[rank]))

    def inbox(self, direction: int, tag: int, *, slots: int, ahead: int) -> Inbox | None:
        """Messages from the previous (-1) or next (+1) process; ``None`` at the pipeline's end."""
        peer = self.global_rank + direction
        if not 0 <= peer < self.world_size:
            return None
        return Inbox(peer, tag, self.root_device, self.timeout, self.watch, slots=slots, ahead=ahead)

    def outbox(self, direction: int, tag: int, *, depth: int) -> Outbox | None:
        """Messages to the previous (-1) or next (+1) process; ``None`` at the pipeline's end."""
        peer = self.global_rank + direction
        if not 0 <= peer < self.world_size:
            return None
        return Outbox(peer, tag, self.root_device, self.timeout, self.watch, depth=depth)

    def memory(self) -> list[StageMemory]:
        """What every stage of the pipeline holds, in every process; to be called by all of them while training."""
        runner = self._runner()
        rows = [StageMemory.of(stage, self.global_rank) for stage in runner.program.stages] if runner.program else []
        return [row for part in self.gather(rows) for row in part]

    def gather(self, value: T) -> list[T]:
        """Every process's ``value``, in order of rank, in every process."""
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def from_last(self, value: T) -> T:
        """The last process's ``value``, in every process."""
        return self.broadcast(value, self.world_size - 1)

    def broadcast(self, obj: T, src: int = 0) -> T:
        """``obj`` of process ``src``."""
        box = [obj]
        self.watch.waiting(src if src != self.global_rank else None)
        dist.broadcast_object_list(box, src)
        self.watch.waiting(None)
        return box[0]

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes (or any) decide so: where callbacks must do the same everywhere."""
        votes = torch.tensor(int(decision))
        dist.all_reduce(votes, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX)
        return bool(votes)

    def barrier(self, name: str | None = None) -> None:
        """Wait for all processes."""
        dist.barrier()

    def process_dataloader(self, dataloader: object) -> Feed:
        """Only the process with the first stage reads data."""
        return Feed(cast(Any, dataloader), reads=self.global_rank == 0)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Every process has optimizers of its own."""
        return optimizer.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A folder with one file per stage; see :mod:`layerpipe2.runtime.checkpoint`."""
        runner = self._runner()
        common, parts = checkpoints.split_by_stage(checkpoint, runner.trained)
        checkpoints.write(Path(filepath), common, parts, first=self.is_global_zero, barrier=self.barrier)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """This process's stages from such a folder."""
        return checkpoints.read(Path(checkpoint_path), self._runner().mine)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Delete such a folder."""
        if self.is_global_zero:
            checkpoints.remove(Path(filepath))

    def _runner(self) -> Runner:
        module = self.lightning_module
        if not isinstance(module, PipelinedModule) or not isinstance(module.execution, Runner):
            raise UserError(f"PipelineStrategy trains a PipelinedModule, not a {type(module).__name__}")
        return module.execution
