"""Messages between neighbours on one host: the sender packs them into memory that the receiver reads them in.

The memory (:mod:`layerpipe2.pipeline.shared_memory`) is divided into slots of one message. Their numbers go through
two pipes: forward that of a slot which holds a message, back that of one whose message is no longer read. Nothing else
is shared. Who has taken a slot's number out of a pipe sees all that the other process did with the slot before it put
the number in: a write to a pipe and the read that finds it are ordered by the kernel, whatever the processor's own
rules are. And who waits sleeps, as long as there is no number. Where no memory can be shared, messages go by gloo.
"""

import os
import weakref
from collections import deque
from contextlib import ExitStack, suppress

import torch
from torch import Tensor

from layerpipe2.pipeline.links import Channel, Inbox, Outbox
from layerpipe2.pipeline.messages import message_size, pack, unpack
from layerpipe2.pipeline.shared_memory import (
    NO_OFFER,
    WORD,
    SlotNumbers,
    allocate,
    divided,
    make_ends,
    make_offer,
    open_ends,
)


class Shared(Channel):
    """One direction of messages of one kind through memory that both processes have mapped."""

    def numbers(self, pipe: SlotNumbers) -> list[int]:
        """Wait for at least one slot's number from the neighbour.

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

    def send(self, *tensors: Tensor) -> None:
        """Send as :meth:`Outbox.send` does."""
        size = message_size(tensors)
        if not self.capacity:
            self.capacity = size
            self._try(lambda: allocate(self._memory, self._count, size))
            self._slots = self._try(lambda: divided(self._memory, self._count))
            self._free = list(reversed(range(self._count)))
        self._check(size)
        if not self._free:
            self._free += self.numbers(self._returns)
        slot = self._free.pop()
        pack(tensors, self._slots[slot])
        self._try(lambda: os.write(self._arrivals, WORD.pack(slot)))
        with suppress(ConnectionError):  # the receiver may have ended, in order, after this message
            self._free += self._returns.take()

    def flush(self) -> None:
        """Do nothing: what was sent lies where it is read."""

    def connects(self, allowed: bool) -> bool:
        """Whether the receiver can open, and both are ``allowed`` to use, the memory that this process offers."""
        with ExitStack() as closing:
            offer = NO_OFFER
            with suppress(OSError):
                if allowed and hasattr(os, "memfd_create"):
                    self._memory, kept, given = make_ends(closing)
                    offer = make_offer(self._memory, given, self.depth)
            self.wait(self._send(torch.tensor(offer)))
            answer = torch.zeros(1, dtype=torch.int64)  # slots that the receiver needs beside ``depth``
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

    def expect(self, messages: float) -> None:
        """Do nothing: the sender needs no buffer of this process."""

    def receive(self) -> list[Tensor]:
        """The next message's tensors, views of the slot that it lies in."""
        if not self._arrived:
            self._arrived.extend(self.numbers(self._arrivals))
        if not self.capacity:
            self._slots = self._try(lambda: divided(self._memory, self._count))
            self.capacity = len(self._slots[0])
        slot = self._arrived.popleft()
        self._read.append(slot)
        if len(self._read) > self.slots - self.ahead:
            with suppress(BrokenPipeError):  # the sender may have ended, in order, after its last message
                os.write(self._returns, WORD.pack(self._read.popleft()))
        return unpack(self._slots[slot])

    def connects(self, allowed: bool) -> bool:
        """Whether this process can open, and both are ``allowed`` to use, the memory that the sender offers."""
        offer = torch.tensor(NO_OFFER)
        self.wait(self._receive(offer))
        ends = open_ends(offer.tolist()) if allowed else None
        if ends is not None:
            self._memory, arrivals, self._returns = ends
            self._count = int(offer[4]) + self.slots
            self._arrivals = SlotNumbers(arrivals)
            self._arrived, self._read = deque[int](), deque[int]()
            for end in (self._memory, self._returns):
                weakref.finalize(self, os.close, end)
        self.wait(self._send(torch.tensor([self.slots if ends else 0])))
        return ends is not None
