"""Where a process stands in the pipeline, and how its messages reach the neighbours."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from layerpipe2.distributed.device_links import DeviceInbox, DeviceOutbox
from layerpipe2.distributed.health.watch import Watch
from layerpipe2.distributed.links import Inbox, Outbox

TAGS = 4  # kinds of messages between two processes
_LONG = timedelta(days=7)  # of a transfer between GPUs: the watchdog finds what hangs, and NCCL would abort
_HOST = torch.device("cpu")
_groups: dict[str, dict[tuple[int, int], Any]] = {}


@dataclass
class Endpoint:
    """This process's place in the pipeline: makes its links to the neighbours, by way of the hosts' memory.

    Attributes:
        rank: of this process; its neighbours are one less and one more.
        world_size: number of processes.
        device: where the tensors lie.
        timeout: how long a transfer may take.
        watch: who looks after the other processes.
        first_tag: of :data:`TAGS` that belong to this endpoint.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta
    watch: Watch
    first_tag: int = 0

    def inbox(self, direction: int, tag: int, *, slots: int, ahead: int) -> Inbox | None:
        """Messages from the previous (-1) or next (+1) process; ``None`` at the pipeline's end."""
        return self._inbox(direction, tag, slots, ahead) if self._has(direction) else None

    def outbox(self, direction: int, tag: int, *, depth: int) -> Outbox | None:
        """Messages to the previous (-1) or next (+1) process; ``None`` at the pipeline's end."""
        return self._outbox(direction, tag, depth) if self._has(direction) else None

    def _has(self, direction: int) -> bool:
        return 0 <= self.rank + direction < self.world_size

    def _inbox(self, direction: int, tag: int, slots: int, ahead: int) -> Inbox:
        return Inbox(*self._link(direction, tag, self.device), slots=slots, ahead=ahead)

    def _outbox(self, direction: int, tag: int, depth: int) -> Outbox:
        return Outbox(*self._link(direction, tag, self.device), depth=depth)

    def _link(self, direction: int, tag: int, device: torch.device) -> tuple[Any, ...]:
        return self.rank + direction, self.first_tag + tag, device, self.timeout, self.watch


class DeviceEndpoint(Endpoint):
    """The same, from device to device; see :mod:`layerpipe2.distributed.device_links`.

    Made by all processes together, and its links by both neighbours in the same order.

    Args:
        backend: of torch.distributed, for the tensors: ``nccl``. (``gloo`` shows on CPUs that the order is right.)
    """

    def __init__(self, *args: Any, backend: str = "nccl", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if backend not in _groups:
            _groups[backend] = self._make_groups(backend)
            atexit.register(_forget_groups)
        self._groups = _groups[backend]

    def _inbox(self, direction: int, tag: int, slots: int, ahead: int) -> Inbox:
        headers = Inbox(*self._link(direction, tag, _HOST), slots=ahead + 1, ahead=ahead)
        link, group = self._link(direction, tag, self.device), self._group(direction, tag)
        return DeviceInbox(*link, slots=slots, ahead=ahead, headers=headers, group=group)

    def _outbox(self, direction: int, tag: int, depth: int) -> Outbox:
        headers = Outbox(*self._link(direction, tag, _HOST), depth=depth)
        link, group = self._link(direction, tag, self.device), self._group(direction, tag)
        return DeviceOutbox(*link, depth=depth, headers=headers, group=group)

    def _group(self, direction: int, tag: int) -> Any:
        return self._groups[self.rank + min(direction, 0), tag]

    def _make_groups(self, backend: str) -> dict[tuple[int, int], Any]:
        """(boundary, kind of message) -> communicator of the two processes there; torch has all processes make all.

        Made once in a process: they hold memory of the GPU, and every training leaves them without a message.
        """
        return {
            (left, tag): dist.new_group([left, left + 1], timeout=_LONG, backend=backend)
            for left in range(self.world_size - 1)
            for tag in range(TAGS)
        }


def _forget_groups() -> None:
    """NCCL wants its groups closed before the process ends."""
    _groups.clear()
    if dist.is_initialized():
        dist.destroy_process_group()
