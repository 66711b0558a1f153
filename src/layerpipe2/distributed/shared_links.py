"""Messages between neighbours on one host: the sender packs them into memory that the receiver reads them in.

The memory is divided into slots of one message. Their numbers go through two pipes: forward that of a slot which holds
a message, back that of one whose message is no longer read. Nothing else is shared. Who has taken a slot's number out
of a pipe sees all that the other process did with the slot before it put the number in: a write to a pipe and the read
that finds it are ordered by the kernel, whatever the processor's own rules are. And who waits sleeps, as long as there
is no number.

Memory (``memfd_create``) and pipes have no names. The receiver opens the sender's through ``/proc/PID/fd``, which the
kernel grants to the same user only, and finds the token there that came by gloo: so it is the same memory. All of it is
gone with the last process that has it open, whatever that process dies of. Where it can't be opened (another host or
container, another system than Linux), or lies behind another network (of namespaces on one machine, which count as
hosts), messages go by gloo.
"""

import os
import select
import struct
import weakref
from collections import deque
from contextlib import ExitStack, suppress
from datetime import timedelta
from mmap import PAGESIZE, mmap
from secrets import token_bytes
from typing import Any

import torch
from torch import Tensor

from layerpipe2.distributed.links import Channel, Inbox, Outbox
from layerpipe2.distributed.messages import message_size, pack, unpack

_NAME = "layerpipe2"
_WORD = struct.Struct("q")  # a slot's number in a pipe
_TOKEN = struct.Struct("4q")
_NOTHING = [0] * 11
"""An offer: process, its ends for the receiver (memory, arrivals, returns), depth, network (2), token (4)."""


class SlotNumbers:
    """The reading end of a pipe with numbers of slots. Closes it when it is no longer used."""

    def __init__(self, end: int) -> None:
        self._end, self._poll = end, select.poll()
        os.set_blocking(end, False)
        self._poll.register(end, select.POLLIN)
        weakref.finalize(self, os.close, end)

    def take(self) -> list[int]:
        """Those that are there.

        Raises:
            ConnectionError: if there is none, and never will be: the other process has ended.
        """
        try:
            found = os.read(self._end, PAGESIZE)
        except BlockingIOError:
            return []
        if not found:
            raise ConnectionError("the other process has closed it")
        return [number for (number,) in _WORD.iter_unpack(found)]

    def wait(self, timeout: timedelta) -> list[int]:
        """At least one; raises TimeoutError if there is none in time, ConnectionError as :meth:`take`."""
        if not self._poll.poll(min(timeout.total_seconds() * 1000, 2**31 - 1)):
            raise TimeoutError(f"no answer for {timeout.total_seconds():g} s")
        return self.take()


class Shared(Channel):
    """One direction of messages of one kind through memory that both processes have mapped."""

    def numbers(self, pipe: SlotNumbers) -> list[int]:
        """At least one slot's number from the neighbour.

        Raises:
            PeerLost: saying which rank failed and how.
        """
        found = self._try(pipe.take)
        if not found:
            self.watch.waiting(self.peer)
            found = self._try(lambda: pipe.wait(self.timeout))
            self.watch.waiting(None)
        return found


class SharedOutbox(Shared, Outbox):
    """Packs messages into slots; of those that are free it takes the last one used, which caches still hold."""

    @classmethod
    def where_possible(cls, *link: Any, device: torch.device, depth: int, allowed: bool) -> Outbox:
        """An outbox by shared memory or, if the receiver can't open that or it isn't ``allowed``, by gloo."""
        box = cls(*link, device=device, depth=depth)
        return box if box._connects(allowed) else Outbox(*link, device=device, depth=depth)

    def send(self, *tensors: Tensor) -> None:
        """As :meth:`Outbox.send`."""
        size = message_size(tensors)
        if not self.capacity:
            self.capacity = size
            os.ftruncate(self._memory, PAGESIZE + self._count * -(-size // PAGESIZE) * PAGESIZE)
            self._slots = _slots(self._memory, self._count)
            self._free = list(reversed(range(self._count)))
        self._check(size)
        if not self._free:
            self._free += self.numbers(self._returns)
        slot = self._free.pop()
        pack(tensors, self._slots[slot])
        self._try(lambda: os.write(self._arrivals, _WORD.pack(slot)))
        with suppress(ConnectionError):  # the receiver may have ended, in order, after this message
            self._free += self._returns.take()

    def flush(self) -> None:
        """Nothing to do: what was sent lies where it is read."""

    def _connects(self, allowed: bool) -> bool:
        """Offer memory, wait for the number of slots that the receiver wants beside ``depth`` (0: it refuses)."""
        with ExitStack() as closing:
            offer = _NOTHING
            with suppress(OSError):
                if allowed and hasattr(os, "memfd_create"):
                    self._memory, kept, given = _make(closing)
                    token = token_bytes(_TOKEN.size)
                    os.write(self._memory, token)
                    offer = [os.getpid(), self._memory, *given, self.depth, *_network(), *_TOKEN.unpack(token)]
            self.wait(self._send(torch.tensor(offer)))
            answer = torch.zeros(1, dtype=torch.int64)
            self.wait(self._receive(answer))
            if not answer:
                return False
            self._count = self.depth + int(answer)
            closing.pop_all()
            for end in given:  # else this process would hold its own messages' pipe open when the receiver is gone
                os.close(end)
            self._arrivals, self._returns = kept[0], SlotNumbers(kept[1])
            for end in (self._memory, self._arrivals):
                weakref.finalize(self, os.close, end)
            return True


class SharedInbox(Shared, Inbox):
    """Receives where the sender has packed it. What :meth:`receive` returns stays as long as an :class:`Inbox`'s."""

    @classmethod
    def where_possible(cls, *link: Any, device: torch.device, slots: int, ahead: int, allowed: bool) -> Inbox:
        """An inbox by shared memory or, if that can't be opened or isn't ``allowed``, by gloo."""
        box = cls(*link, device=device, slots=slots, ahead=ahead)
        return box if box._connects(allowed) else Inbox(*link, device=device, slots=slots, ahead=ahead)

    def expect(self, messages: int) -> None:
        """Nothing to do: the sender needs no buffer of this process."""

    def receive(self) -> list[Tensor]:
        """The next message's tensors, views of the slot that it lies in."""
        if not self._arrived:
            self._arrived.extend(self.numbers(self._arrivals))
        if not self.capacity:
            self._slots = _slots(self._memory, self._count)
            self.capacity = len(self._slots[0])
        slot = self._arrived.popleft()
        self._read.append(slot)
        if len(self._read) > self.slots - self.ahead:
            with suppress(BrokenPipeError):  # the sender may have ended, in order, after its last message
                os.write(self._returns, _WORD.pack(self._read.popleft()))
        return unpack(self._slots[slot])

    def _connects(self, allowed: bool) -> bool:
        """Open the memory that the sender offers, and answer how many slots this side needs (0: it isn't possible)."""
        offer = torch.tensor(_NOTHING)
        self.wait(self._receive(offer))
        ends = _open(offer.tolist()) if allowed else None
        if ends is not None:
            self._memory, arrivals, self._returns = ends
            self._count = int(offer[4]) + self.slots
            self._arrivals = SlotNumbers(arrivals)
            self._arrived, self._read = deque[int](), deque[int]()
            for end in (self._memory, self._returns):
                weakref.finalize(self, os.close, end)
        self.wait(self._send(torch.tensor([self.slots if ends else 0])))
        return ends is not None


def _make(closing: ExitStack) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Memory; ends of the pipes for arrivals and returns that the sender keeps; those that the receiver opens."""
    memory = os.memfd_create(_NAME)
    closing.callback(os.close, memory)
    os.fchmod(memory, 0o600)
    pipes = []
    for _ in range(2):
        pipes.append(os.pipe())
        for end in pipes[-1]:
            closing.callback(os.close, end)
    (arrivals, arrive), (returns, give_back) = pipes
    return memory, (arrive, returns), (arrivals, give_back)


def _open(offer: list[int]) -> tuple[int, int, int] | None:
    """Memory, arrivals and returns of an offer; None if they are out of reach, or not the ones that were meant."""
    (process, *numbers), network, token = offer[:4], offer[5:7], offer[7:]
    place, ways = f"/proc/{process}/fd", (os.O_RDWR, os.O_RDONLY, os.O_WRONLY)
    with ExitStack() as closing, suppress(OSError):
        if tuple(network) != _network() or not os.readlink(f"{place}/{numbers[0]}").startswith(f"/memfd:{_NAME}"):
            return None
        ends = []
        for number, way in zip(numbers, ways, strict=True):
            ends.append(os.open(f"{place}/{number}", way | os.O_NONBLOCK))
            closing.callback(os.close, ends[-1])
            if len(ends) == 1 and os.pread(ends[0], _TOKEN.size, 0) != _TOKEN.pack(*token):
                return None
        os.set_blocking(ends[2], True)
        closing.pop_all()
        return ends[0], ends[1], ends[2]
    return None


def _network() -> tuple[int, int]:
    """Which network this thread sees."""
    seen = os.stat("/proc/thread-self/ns/net")
    return seen.st_dev, seen.st_ino


def _slots(memory: int, count: int) -> list[Tensor]:
    """The memory behind the page of the token, in so many equal parts.

    Views of one tensor would not do: autograd counts changes in place for all views together.
    """
    mapped = mmap(memory, 0)
    size = (len(mapped) - PAGESIZE) // count
    return [torch.frombuffer(mapped, dtype=torch.uint8, offset=PAGESIZE + i * size, count=size) for i in range(count)]
