"""Messages from GPU to GPU: the tensors by NCCL, beside a header by gloo that says what comes.

NCCL keeps no tags and runs its transfers in the order of their calls, each as a kernel that waits on the GPU for its
counterpart. Four rules make that safe and keep the GPU busy:

- Each kind of message in each direction has a communicator of its own, so that two neighbours never wait for each other
  in opposite orders.
- A reception is posted only when its header has come, and the header leaves after the transfer was posted. No kernel
  waits for something that nobody has begun to send, and it is the host that waits for a slow neighbour, where the
  watchdog sees it.
- The host doesn't wait for the GPU: transfers are ordered against the computation by streams and events.
- Before a pause (validation, a checkpoint, the end) everything that is under way is taken in: a large transfer waits on
  the sender's GPU until its reception is posted, and would do so all through the pause.

What remains is NVIDIA's own condition for kernels that wait for each other: nothing may stop the whole device in
between; see :mod:`layerpipe2.pipeline.environment`. The order of the messages is tested on CPUs, with gloo in
the place of NCCL; NCCL itself has not been run yet.
"""

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from layerpipe2.pipeline.links import Channel, Inbox, Outbox
from layerpipe2.pipeline.messages import pack_payload, payload_size, unpack_payload


class OnDevice(Channel):
    """One direction of one kind of messages over the communicator ``group``, from device to device.

    Args:
        group: of this process and ``peer`` alone, for this link alone.
    """

    def __init__(self, *args: Any, group: dist.ProcessGroup, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.route = {"group": group}

    def wait(self, work: Any) -> None:
        """Let the current stream wait for a transfer (on the CPU: this thread)."""
        self._try(work.wait)

    def buffer(self) -> Tensor:
        """Uninitialised bytes for one message, on the device."""
        return torch.empty(self.capacity, dtype=torch.uint8, device=self.device)

    def connect(self, transfer: Callable[[Tensor], Any]) -> None:
        """Make the communicator by one transfer: both sides wait for each other here, not in the middle of a step."""
        self.watch.waiting(self.peer)
        self.wait(transfer(torch.zeros(1, dtype=torch.uint8, device=self.device)))
        self.wait_for_stream()
        self.watch.waiting(None)

    def wait_for_stream(self) -> None:
        """Wait until the device has finished all work of the current stream."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


class DeviceOutbox(OnDevice, Outbox):
    """Sends; returns at once, and keeps what is under way in ``depth`` buffers.

    Args:
        headers: the same link by way of the hosts.
    """

    def __init__(self, *args: Any, headers: Outbox, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers = headers
        self.connect(self._send)

    def send(self, *tensors: Tensor) -> None:
        """Send as :meth:`Outbox.send` does."""
        size = payload_size(tensors)
        self.capacity = self.capacity or size
        self._check(size)
        payload = self._free_buffer() if size else torch.empty(0, dtype=torch.uint8, device=self.device)
        header = pack_payload(tensors, payload)
        if size:
            self._under_way.append((self._send(payload[:size]), payload))
        self.headers.send(header, torch.tensor([size, self.capacity]))

    def flush(self) -> None:
        """Wait until everything has left."""
        self.headers.flush()
        super().flush()
        self.wait_for_stream()


class DeviceInbox(OnDevice, Inbox):
    """Receives, in order, into ``slots`` buffers used in turn.

    Args:
        headers: the same link by way of the hosts.
    """

    def __init__(self, *args: Any, headers: Inbox, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers = headers
        cuda = self.device.type == "cuda"
        self._beside: Any = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]
        self._taken: deque[tuple[Any, Tensor, Tensor]] = deque()
        self._readers: deque[Any] = deque(maxlen=self.ahead)
        self.connect(self._receive)

    def expect(self, messages: float) -> None:
        """Prepare for so many further messages."""
        self.headers.expect(messages)

    def receive(self) -> list[Tensor]:
        """The next message's tensors, views of the buffer that it lies in."""
        before = self._readers[0] if len(self._readers) == self.ahead else None
        if self._beside is not None:
            self._readers.append(torch.cuda.current_stream(self.device).record_event())
        work, header, payload = self._taken.popleft() if self._taken else self._begin(before)
        if work is not None:
            self.wait(work)
        return unpack_payload(header, payload)

    def take_in(self, messages: int) -> None:
        """Begin the reception of the next ``messages`` (up to ``ahead``), which are on their way, before a pause.

        All readers of the buffers that are used again were begun before.
        """
        now = torch.cuda.current_stream(self.device).record_event() if self._beside is not None else None
        while len(self._taken) < messages:
            self._taken.append(self._begin(now))

    def _begin(self, after: Any) -> tuple[Any, Tensor, Tensor]:
        """Transfer (``None``: nothing to transfer), header and buffer of the next message from the other side.

        Args:
            after: event behind whatever may still read the buffer that is used again. In a step that is the one of the
                reception ``ahead`` calls ago; so this transfer runs beside everything that was begun since.
        """
        header, sizes = self.headers.receive()
        header = header.clone()  # its buffer may be used again before this message is read
        size, self.capacity = sizes.tolist()
        if not size:
            return None, header, torch.empty(0, dtype=torch.uint8, device=self.device)
        if self._beside is not None and after is not None:
            self._beside.wait_event(after)
        # New buffers belong to the stream beside the computation: the computation's could still be in use there.
        with nullcontext() if self._beside is None else torch.cuda.stream(self._beside):
            payload = self._next_buffer()
            return self._receive(payload[:size]), header, payload
