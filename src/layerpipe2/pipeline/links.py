"""Messages between neighbouring processes of the pipeline: preallocated buffers, transfers beside the computation.

A message is one flat buffer of bytes (:mod:`layerpipe2.pipeline.messages`) in the host's memory, sent by gloo. All
messages of a link have the size that the first one announces, so that the receiver can post its buffers before they are
sent. Mini-batches may therefore shrink (the last one of an epoch) but not grow. Between GPUs:
:mod:`layerpipe2.pipeline.device_links`; on one host: :mod:`layerpipe2.pipeline.shared_links`.
"""

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.pipeline.messages import message_size, pack, unpack

T = TypeVar("T")


class Watch:
    """Looks after nobody while a process waits; :class:`layerpipe2.pipeline.health.watchdog.Watchdog` does."""

    def progress(self, step: int) -> None:
        """This process got on, and is at ``step``."""

    def waiting(self, peer: int | None) -> None:
        """This process waits for ``peer`` from now on, or for nobody."""

    def fail(self, message: str) -> None:
        """This process ends, and says why."""

    def close(self) -> None:
        """Training has ended in order."""

    def explain(self, error: BaseException) -> str:
        """One line on why a transfer failed: which rank, and what became of it."""
        return f"a transfer failed: {error}"


class PeerLost(UserError):
    """A neighbour is gone, or did not answer in time."""


class Channel:
    """One direction of messages of one kind between this process and ``peer``.

    Args:
        peer: rank of the neighbour.
        tag: tells the kinds of messages between the same two processes apart.
        timeout: how long a transfer may take.
        watch: hears whom this process waits for.
        device: where the tensors lie that are sent, and shall lie that are received.
    """

    def __init__(self, peer: int, tag: int, timeout: timedelta, watch: Watch, device: torch.device) -> None:
        self.peer, self.device, self.timeout, self.watch = peer, device, timeout, watch
        self.route: dict[str, Any] = {"tag": tag}
        self.capacity = 0

    def wait(self, work: Any) -> None:
        """Wait for a transfer.

        Raises:
            PeerLost: saying which rank failed and how.
        """
        if work.is_completed():
            return
        self.watch.waiting(self.peer)
        self._try(lambda: work.wait(self.timeout))
        self.watch.waiting(None)

    def _try(self, transfer: Callable[[], T]) -> T:
        try:
            return transfer()
        except (RuntimeError, OSError) as error:
            raise PeerLost(self.watch.explain(error)) from error

    def _send(self, message: Tensor) -> Any:
        return self._try(lambda: dist.isend(message, self.peer, **self.route))

    def _receive(self, message: Tensor) -> Any:
        return self._try(lambda: dist.irecv(message, self.peer, **self.route))

    def buffer(self) -> Tensor:
        """Uninitialised bytes for one message, in the host's memory."""
        return torch.empty(self.capacity, dtype=torch.uint8, pin_memory=self.device.type == "cuda")


class Outbox(Channel):
    """Sends; returns at once, and keeps what is under way in ``depth`` buffers."""

    def __init__(self, *args: Any, depth: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.depth = depth
        self._under_way: deque[tuple[Any, Tensor]] = deque()

    def send(self, *tensors: Tensor) -> None:
        """Copy the tensors into a message and let it go.

        Raises:
            UserError: if they need more room than the link's first message, or can't be described by the header.
        """
        size = message_size(tensors)
        if not self.capacity:
            self.capacity = size
            self.wait(self._send(torch.tensor([size])))
        self._check(size)
        message = self._free_buffer()
        pack(tensors, message)
        self._under_way.append((self._send(message), message))

    def flush(self) -> None:
        """Wait until everything has left."""
        while self._under_way:
            self.wait(self._under_way.popleft()[0])

    def _check(self, size: int) -> None:
        if size > self.capacity:
            raise UserError(
                f"a mini-batch needs {size} bytes on the way to rank {self.peer}, but the first one needed "
                f"{self.capacity}; between processes batches may shrink, not grow: put the largest one first"
            )

    def _free_buffer(self) -> Tensor:
        if len(self._under_way) < self.depth and not (self._under_way and self._under_way[0][0].is_completed()):
            return self.buffer()
        work, message = self._under_way.popleft()
        self.wait(work)
        return message


class Inbox(Channel):
    """Receives, in order, into ``slots`` buffers used in turn; up to ``ahead`` receptions are posted in advance.

    What :meth:`receive` returns lies in such a buffer (or on the device, if it isn't the host), and stays there for
    ``slots - ahead`` further receptions.
    """

    def __init__(self, *args: Any, slots: int, ahead: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots, self.ahead = slots, ahead
        self._buffers: list[Tensor] = []
        self._posted: deque[tuple[Any, Tensor]] = deque()
        self._number, self._expected = 0, 0.0

    def expect(self, messages: float) -> None:
        """Prepare for so many further messages (infinitely many may come); no more receptions are posted than that."""
        self._expected += messages

    def take_in(self, messages: int) -> None:
        """Do nothing before a pause: up to ``ahead`` receptions are always posted."""

    def receive(self) -> list[Tensor]:
        """The next message's tensors, views of the buffer that it lies in where that is on their device."""
        if not self.capacity:
            note = torch.empty(1, dtype=torch.int64)
            self.wait(self._receive(note))
            self.capacity = int(note)
        self._post(1)
        work, message = self._posted.popleft()
        self.wait(work)
        self._post(self.ahead)
        return [tensor.to(self.device) for tensor in unpack(message)]

    def _post(self, count: int) -> None:
        while len(self._posted) < count and self._expected > 0:
            message = self._next_buffer()
            self._posted.append((self._receive(message), message))
            self._expected -= 1

    def _next_buffer(self) -> Tensor:
        if len(self._buffers) < self.slots:
            self._buffers.append(self.buffer())
        self._number += 1
        return self._buffers[(self._number - 1) % self.slots]
