"""Memory and pipes of two processes on one host, without names that could be left behind.

The sender makes them (``memfd_create``). The receiver opens the sender's through ``/proc/PID/fd``, which the kernel
grants to the same user only, and finds the token there that came by gloo: so it is the same memory. All of it is gone
with the last process that has it open, whatever that process dies of. Where it can't be opened (another host or
container, another system than Linux), or lies behind another network (of namespaces on one machine, which count as
hosts), there is none.
"""

import os
import select
import struct
import weakref
from contextlib import ExitStack, suppress
from datetime import timedelta
from mmap import PAGESIZE, mmap
from secrets import token_bytes

import torch
from torch import Tensor

WORD = struct.Struct("q")  # a slot's number in a pipe
_NAME = "layerpipe2"
_TOKEN = struct.Struct("4q")
NO_OFFER = [0] * 11
"""An offer: process, its ends for the receiver (memory, arrivals, returns), depth, network (2), token (4)."""


class SlotNumbers:
    """The reading end of a pipe with numbers of slots. Closes it when it is no longer used."""

    def __init__(self, end: int) -> None:
        self._end, self._poll = end, select.poll()
        os.set_blocking(end, False)
        self._poll.register(end, select.POLLIN)
        weakref.finalize(self, os.close, end)

    def take(self) -> list[int]:
        """Take the numbers that are there.

        Raises:
            ConnectionError: if there is none, and never will be: the other process has ended.
        """
        try:
            found = os.read(self._end, PAGESIZE)
        except BlockingIOError:
            return []
        if not found:
            raise ConnectionError("the other process has closed it")
        return [number for (number,) in WORD.iter_unpack(found)]

    def wait(self, timeout: timedelta) -> list[int]:
        """Wait for at least one; raises TimeoutError if there is none in time, ConnectionError as :meth:`take`."""
        if not self._poll.poll(min(timeout.total_seconds() * 1000, 2**31 - 1)):
            raise TimeoutError(f"no answer for {timeout.total_seconds():g} s")
        return self.take()


def make_ends(closing: ExitStack) -> tuple[int, tuple[int, int], tuple[int, int]]:
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


def make_offer(memory: int, given: tuple[int, int], depth: int) -> list[int]:
    """What the receiver needs to open them; marks the memory with a token."""
    token = token_bytes(_TOKEN.size)
    os.write(memory, token)
    return [os.getpid(), memory, *given, depth, *_network(), *_TOKEN.unpack(token)]


def open_ends(offer: list[int]) -> tuple[int, int, int] | None:
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


def allocate(memory: int, count: int, size: int) -> None:
    """Make room for the token's page, and ``count`` slots of at least ``size`` bytes that begin with a page."""
    os.ftruncate(memory, PAGESIZE + count * -(-size // PAGESIZE) * PAGESIZE)


def divided(memory: int, count: int) -> list[Tensor]:
    """The memory behind the page of the token, in so many equal parts.

    Views of one tensor would not do: autograd counts changes in place for all views together.
    """
    mapped = mmap(memory, 0)
    size = (len(mapped) - PAGESIZE) // count
    return [torch.frombuffer(mapped, dtype=torch.uint8, offset=PAGESIZE + i * size, count=size) for i in range(count)]
