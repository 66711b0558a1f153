"""Lightning's view of a pipeline of several processes: ``Trainer(strategy=PipelineStrategy())``, under ``torchrun``.

The user's script, data module, loggers and callbacks stay as they are. Every process runs the ``Trainer``; each holds
only its own stages, and the same metrics.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info

from layerpipe2.distributed import checkpoint as checkpoints
from layerpipe2.distributed.data_feed import Feed
from layerpipe2.distributed.devices import describe, own_device, transport_of
from layerpipe2.distributed.endpoint import TAGS, DeviceEndpoint, Endpoint
from layerpipe2.distributed.health.agreement import check_agreement, standard_facts
from layerpipe2.distributed.health.watch import PeerLost, Unwatched, Watch
from layerpipe2.distributed.health.watchdog import EVERYONE, Watchdog
from layerpipe2.distributed.memory import StageMemory
from layerpipe2.distributed.runner import Runner
from layerpipe2.distributed.store import agent_hosts_store, first_line, host_store, join_store
from layerpipe2.distributed.timeline import Event, Timeline
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.errors import UserError

T = TypeVar("T")
_ENDPOINTS = count()  # made by every process in the same order


class PipelineStrategy(SingleDeviceStrategy):
    """One process per group of consecutive stages, on CPUs or (not tried yet, see docs/cluster.md) a GPU each.

    The results are those of one process with the same ``PipelinedModule(stage_seed=...)`` (``None`` is 0 here), on CPUs
    bit for bit, if the order of the data does not hang on torch's default generator: give a shuffled ``DataLoader`` a
    ``generator`` of its own. A callback that changes how a stage computes (a dropout rate, a frozen BatchNorm) takes
    effect up to ``d`` mini-batches later than in one process: those are already on their way. One that changes weights
    between two updates, which one process refuses, is not noticed.

    Args:
        stages_per_process: how many stages each process takes, input side first; by default as evenly as possible.
        timeout_s: seconds after which a process that does not answer is given up.
        split_backward: compute the gradient of a stage's input, which the neighbour waits for, before those of its
            weights. The results stay the same.
        check_finite: end all processes, naming the stage, at the first activation, loss or gradient that is not finite.
        resumable: keep what a checkpoint of a full pipeline needs: for methods that keep no stash up to ``d`` copies of
            the weights, during the last ``d`` updates of every epoch. By default if the ``Trainer`` has a checkpoint
            callback. Not needed with ``drain``.
        timeline: takes time stamps of this process, if wanted.

    Attributes:
        processes: how many there are.
        memory: after training, what each stage of the whole pipeline holds.
        events: after training, what every process did when, if they all have a ``timeline``; draw it, or open it in a
            browser with :func:`layerpipe2.distributed.timeline.write_chrome_trace`.

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
        check_finite: bool = True,
        resumable: bool | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        super().__init__(device="cpu")  # until the launcher has said which device is this process's
        self.stages_per_process = stages_per_process
        # Lightning's own world stays one process: in a larger one it lets all wait for the first before every batch.
        self.processes = 1
        self.timeout_s = timeout_s
        self.split_backward, self.check_finite, self.timeline = split_backward, check_finite, timeline
        self.resumable = resumable
        self.network = ""  # of the whole network, in short; a process forgets the stages that aren't its own
        self.watch: Watch = Unwatched()
        self.memory: list[StageMemory] = []
        self.events: list[list[Event]] = []
        self._watchdog: Watchdog | None = None

    def setup_environment(self) -> None:
        """Join the other processes, see that they run the same code, and begin to watch over them."""
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))  # the first one on each machine prepares the data
        self._root_device = own_device(self.accelerator)
        transport = transport_of(self.root_device)
        if not dist.is_initialized():
            self._join(transport)
        keep_freed_memory()
        self.global_rank, self.processes = dist.get_rank(), dist.get_world_size()
        notice = describe(self.root_device, self.processes)
        if notice is not None and self.is_global_zero:
            rank_zero_info(f"layerpipe2: {notice}")
        # Nothing is to be reduced: every process logs the last one's metrics.
        warnings.filterwarnings("ignore", message=".*recommended to use .self.log.*sync_dist=True")
        self.watch = self._watchdog = Watchdog(
            *_address(), self.global_rank, self.processes, timeout_s=self.timeout_s, label=socket.gethostname()
        )
        super().setup_environment()

    def on_exception(self, exception: BaseException) -> None:
        """Tell the other processes why this one ends."""
        if self._watchdog is not None and not isinstance(exception, PeerLost):
            self._watchdog.fail(first_line(exception))
            self._watchdog = None

    def teardown(self) -> None:
        """Stop watching: the others may end."""
        if self._watchdog is not None:
            self._watchdog.close()
        self.watch, self._watchdog = Unwatched(), None
        super().teardown()

    def agree(self, facts: dict[str, str]) -> None:
        """Refuse to train unless all processes have the same ``facts``.

        Raises:
            UserError: naming the process, the fact and both values.
        """
        store = join_store(*_address(), self.timeout_s)
        check_agreement(store, self.global_rank, self.processes, facts, self.timeout_s)

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
        world = self.processes
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

    def endpoint(self) -> Endpoint:
        """Makes links to the neighbours, which no message of an earlier training can reach."""
        make = DeviceEndpoint if transport_of(self.root_device) == "nccl" else Endpoint
        timeout, tags = self._transfer_timeout, next(_ENDPOINTS) * TAGS
        return make(self.global_rank, self.processes, self.root_device, timeout, self.watch, tags)

    def on_train_end(self) -> None:
        """Leave module and random numbers in order; note, in every process, what each stage of the pipeline holds."""
        self._runner().stop()
        program = self._runner().program
        settled = program.settled if program else []
        rows = [StageMemory.of(one.stage, self.global_rank, one.peak_bytes) for one in settled]
        self.memory = [row for part in self.gather(rows) for row in part]
        self.events = self.gather(self.timeline.events) if self.timeline is not None else []

    def gather(self, value: T) -> list[T]:
        """Every process's ``value``, in order of rank, in every process."""
        found: list[Any] = [None] * self.processes
        self._together(lambda: dist.all_gather_object(found, value))
        return found

    def from_last(self, value: T) -> T:
        """The last process's ``value``, in every process."""
        return self.broadcast(value, self.processes - 1)

    def broadcast(self, obj: T, src: int = 0) -> T:
        """``obj`` of process ``src``."""
        box = [obj]
        self._together(lambda: dist.broadcast_object_list(box, src))
        return box[0]

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes (or any) decide so: where callbacks must do the same everywhere."""
        votes = torch.tensor(int(decision))
        self._together(lambda: dist.all_reduce(votes, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX))
        return bool(votes)

    def barrier(self, name: str | None = None) -> None:
        """Wait for all processes."""
        self._together(dist.barrier)

    def process_dataloader(self, dataloader: object) -> Feed:
        """Only the process with the first stage reads data.

        Raises:
            UserError: if it's not a ``PipelinedModule`` that is trained, or the data have no length.
        """
        self._runner()
        return Feed(cast(Any, dataloader), reads=self.global_rank == 0)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Every process has optimizers of its own."""
        return optimizer.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A folder with one file per stage; see :mod:`layerpipe2.distributed.checkpoint`."""
        runner = self._runner()
        common, parts = checkpoints.split_by_stage(checkpoint, runner.trained)
        checkpoints.write(Path(filepath), common, parts, first=self.is_global_zero, barrier=self.barrier)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """This process's stages from such a folder."""
        return checkpoints.read(Path(checkpoint_path), self._runner().mine, weights_only=bool(weights_only))

    def remove_checkpoint(self, filepath: Any) -> None:
        """Delete such a folder."""
        if self.is_global_zero:
            checkpoints.remove(Path(filepath))

    def _together(self, work: Callable[[], Any]) -> None:
        self.watch.waiting(EVERYONE)
        try:
            work()
        except RuntimeError as error:
            raise PeerLost(self.watch.explain(error)) from error
        self.watch.waiting(None)

    @property
    def _transfer_timeout(self) -> timedelta:
        """Longer than the watchdog's, which knows more."""
        return timedelta(seconds=2 * self.timeout_s)

    def _join(self, transport: str) -> None:
        if not dist.is_torchelastic_launched():
            raise UserError("a pipeline of several processes needs a launcher; start the script with "
                            "`layerpipe2 launch --processes N -- SCRIPT` or torchrun")  # fmt: skip
        sys.excepthook = _in_one_line
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        serve = host_store if rank == 0 and not agent_hosts_store() else join_store
        store = serve(*_address(), self.timeout_s)
        facts = standard_facts() | {"transport of messages": transport}
        check_agreement(store, rank, world, facts, self.timeout_s)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=self._transfer_timeout)

    def _runner(self) -> Runner:
        module = self.lightning_module
        if not isinstance(module, PipelinedModule) or not isinstance(module.execution, Runner):
            raise UserError(f"PipelineStrategy trains a PipelinedModule, not a {type(module).__name__}")
        return module.execution


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A user's mistake ends a script as it ends our commands: one line, exit code 2."""
    if not issubclass(kind, UserError):
        return sys.__excepthook__(kind, error, trace)
    print(f"layerpipe2: error: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)  # the interpreter would end with code 1


def _address() -> tuple[str, int]:
    """Of the store where the processes meet, from the launcher."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
