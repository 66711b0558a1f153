"""Where a process stands in the pipeline, and its links to the neighbours in training, validation and test."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layerpipe2.engine.packing import unpack
from layerpipe2.engine.values import handed_on
from layerpipe2.pipeline.device_links import DeviceInbox, DeviceOutbox
from layerpipe2.pipeline.links import Inbox, Outbox, Watch
from layerpipe2.pipeline.shared_links import SharedInbox, SharedOutbox

TAGS = 4  # kinds of messages between two processes
_ACTIVATIONS, _GRADIENTS = 0, 1
_EVALUATION = {"val": 2, "test": 3}
_LONG = timedelta(days=7)  # of a transfer between GPUs: the watchdog finds what hangs, and NCCL would abort
_HOST = torch.device("cpu")
T = TypeVar("T")
Kinds = tuple[Callable[..., T], Any, Callable[..., T]]
_groups: dict[str, dict[tuple[int, int], Any]] = {}


@dataclass
class Endpoint:
    """This process's place in the pipeline: makes its links to the neighbours.

    Made by all processes together, and its links by both neighbours in the same order.

    Attributes:
        rank: of this process; its neighbours are one less and one more.
        world_size: number of processes.
        device: where the tensors lie.
        timeout: how long a transfer may take.
        watch: who looks after the other processes.
        first_tag: of :data:`TAGS` that belong to this endpoint.
        backend: of torch.distributed, ``nccl``, for tensors that go from device to device; ``None``: by way of the
            hosts' memory. (``gloo`` shows on CPUs that the order is right.)
        shares: whether messages on the CPU go by shared memory where the neighbour can open it, else always by gloo.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta
    watch: Watch
    first_tag: int = 0
    backend: str | None = None
    shares: bool = True

    def __post_init__(self) -> None:
        # Once in a process: communicators hold memory of the GPU, and every training leaves them without a message.
        if self.backend is not None and self.backend not in _groups:
            # (boundary, kind of message) -> communicator of the two processes there; torch has all processes make all.
            _groups[self.backend] = {
                (left, tag): dist.new_group([left, left + 1], timeout=_LONG, backend=self.backend)
                for left in range(self.world_size - 1)
                for tag in range(TAGS)
            }
            atexit.register(_forget_groups)

    def inbox(self, direction: int, tag: int, *, slots: int, ahead: int) -> Inbox | None:
        """Messages from the previous (-1) or next (+1) process; ``None`` at the pipeline's end."""
        return self._end((Inbox, SharedInbox, DeviceInbox), direction, tag, slots=slots, ahead=ahead)

    def outbox(self, direction: int, tag: int, *, depth: int) -> Outbox | None:
        """Messages to the previous (-1) or next (+1) process; ``None`` at the pipeline's end."""
        return self._end((Outbox, SharedOutbox, DeviceOutbox), direction, tag, depth=depth)

    def _end(self, kinds: Kinds[T], direction: int, tag: int, **room: int) -> T | None:
        """This process's end of a link: by gloo, by shared memory, or from device to device."""
        if not 0 <= self.rank + direction < self.world_size:
            return None
        by_gloo, by_memory, by_device = kinds
        link = self.rank + direction, self.first_tag + tag, self.timeout, self.watch
        if self.backend is not None:
            headers, group = by_gloo(*link, _HOST, **room), _groups[self.backend][self.rank + min(direction, 0), tag]
            return by_device(*link, self.device, **room, headers=headers, group=group)
        shared = by_memory(*link, self.device, **room)
        connects = shared.connects(self.shares and self.device.type == "cpu")
        return shared if connects else by_gloo(*link, self.device, **room)


def _forget_groups() -> None:
    """NCCL wants its groups closed before the process ends."""
    _groups.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


class Neighbours(NamedTuple):
    """The four directions of messages of a process in training; ``None`` at the ends of the pipeline.

    Targets travel with their mini-batch from the first stage to the last, so that only the first reads data.

    Attributes:
        between: by how many updates the delay of the stage before this process exceeds that of its first stage: between
            two steps, so many activations are under way.
    """

    between: int
    activations_in: Inbox | None
    activations_out: Outbox | None
    gradients_in: Inbox | None
    gradients_out: Outbox | None

    @classmethod
    def of(cls, endpoint: Endpoint, delays: Sequence[int], first: int, last: int) -> Neighbours:
        """Find those of the process that owns the stages ``first`` to ``last`` of a pipeline with ``delays``.

        As many activations are awaited in advance as the delays put between the two stages of a boundary. A message
        stays in its buffer until the backward pass, ``delays[first]`` steps later.
        """
        between = delays[first - 1] - delays[first] if first else 0
        ahead = max(1, between)
        return cls(
            between,
            endpoint.inbox(-1, _ACTIVATIONS, slots=delays[first] + ahead + 2, ahead=ahead),
            endpoint.outbox(+1, _ACTIVATIONS, depth=delays[last] + 2),
            endpoint.inbox(+1, _GRADIENTS, slots=2, ahead=1),
            endpoint.outbox(-1, _GRADIENTS, depth=2),
        )

    def expect(self, batches: float) -> None:
        """Prepare for so many more mini-batches (infinitely many may come)."""
        for inbox in (self.activations_in, self.gradients_in):
            if inbox is not None:
                inbox.expect(batches)

    def flush(self) -> None:
        """Wait until all messages have left."""
        for outbox in (self.activations_out, self.gradients_out):
            if outbox is not None:
                outbox.flush()


class Evaluation:
    """This process's part of validation, test and prediction: mini-batches pass once, forward, by their own links."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._links: dict[str, tuple[Inbox | None, Outbox | None]] = {}

    def pass_on(self, phase: str, stages: Mapping[int, nn.Module], batch: Any) -> list[Tensor] | None:
        """Outputs, and targets if there are some, in the last process, ``None`` in the others.

        Args:
            phase: ``val`` or ``test``.
            stages: of this process, by number.
            batch: inputs and, if wanted, targets in the first process, anything in the others.
        """
        if phase not in self._links:
            inbox = self._endpoint.inbox(-1, _EVALUATION[phase], slots=2, ahead=1)
            self._links[phase] = inbox, self._endpoint.outbox(+1, _EVALUATION[phase], depth=2)
        inbox, outbox = self._links[phase]
        if inbox is None:
            x, *targets = batch
        else:
            inbox.expect(1)
            x, *targets = inbox.receive()
        for k, stage in stages.items():
            x = handed_on(stage(unpack(x)), k, last=outbox is None and k == max(stages))
        if outbox is None:
            return [x, *targets]
        outbox.send(x, *targets)
        return None
