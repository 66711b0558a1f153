"""What a machine lends its processes beside its processors, measured before anything is predicted: memory and links.

What measures is called by every process of a group (``torch.distributed``); whoever predicts brings a :data:`Run`,
which starts them: :func:`side_by_side` here, the benchmark its own with hosts of their own.
"""

from __future__ import annotations

import os
import tempfile
import timeit
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist

from layerpipe2.errors import UserError
from layerpipe2.pipeline.environment import set_missing
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.neighbours import TAGS, Endpoint
from layerpipe2.planning.devices import Link

Run = Callable[..., list[Any]]
"""``run(work, ranks, *arguments)``: results by rank of ``work(*arguments)`` in as many processes of one group."""

# Bytes of the messages that tell latency and bandwidth. The difference of two large ones does not see what a limited
# link lets through at once.
_SIZES = (2**10, 2**20, 2**22)
_COPIED = 2**26  # bytes: more than caches hold
_REPEATS = 7


@dataclass(frozen=True)
class Machine:
    """Measured bandwidths; by default nothing but computation takes time.

    Attributes:
        alone: bytes/s that a process reads and writes when it copies memory, by itself.
        together: the same of every process when all copy at once.
        local: the link between two processes of one host by gloo, whose time is the processors', half at either end.
        link: the link that neighbours have.
        shared: on one host, that of the asynchronous pipeline, by memory; None: the link is its, too.
    """

    alone: float = float("inf")
    together: float = float("inf")
    local: Link = field(default_factory=Link)
    link: Link = field(default_factory=Link)
    shared: Link | None = None

    @classmethod
    def measured(cls, processes: int, run: Run) -> Machine:
        """Measure this machine, with processes on one host."""
        alone, together, local = run(copy_rate, 1)[0], min(run(copy_rate, processes)), measured_link(run)
        return cls(alone, together, local, local, measured_link(run, shares=True))

    def with_link(self, link: Link) -> Machine:
        """Return the same machine with neighbours on hosts of their own."""
        return replace(self, link=link, shared=None)

    @property
    def wire(self) -> Link:
        """What is left of the link without the processors' share of its time, which is that of ``local``."""
        rest = 1 / self.link.bandwidth - 1 / self.local.bandwidth
        return Link(1 / rest if rest > 0 else float("inf"), self.link.latency)

    @property
    def crowding(self) -> float:
        """How much longer a pass over memory takes when all processes make one, at least 1."""
        return max(1.0, self.alone / self.together) if self.alone < float("inf") else 1.0


def measured_link(run: Run, *, shares: bool = False) -> Link:
    """Measure the link between two processes that ``run`` starts: by gloo, or as the asynchronous pipeline does."""
    work = shared_round_trips if shares else round_trips
    small, large, largest = (seconds / 2 for seconds in run(work, 2, _SIZES)[0])
    calm = largest > large  # else other work on the machine held up the shorter message
    return Link((_SIZES[2] - _SIZES[1]) / (largest - large) if calm else _SIZES[2] / largest, small)


def round_trips(sizes: Sequence[int]) -> list[float]:
    """Return the least seconds in which messages of so many bytes travel from rank 0 to rank 1 and back."""
    return [_least(partial(_there_and_back, torch.zeros(size, dtype=torch.uint8))) for size in sizes]


def _there_and_back(message: torch.Tensor) -> None:
    first = dist.get_rank() == 0
    for way in (dist.send, dist.recv) if first else (dist.recv, dist.send):
        way(message, 1 if first else 0)


def shared_round_trips(sizes: Sequence[int]) -> list[float]:
    """Return the same by the links of the asynchronous pipeline."""
    return [_least(_link(number, torch.zeros(size, dtype=torch.uint8))) for number, size in enumerate(sizes)]


def _link(number: int, message: torch.Tensor) -> Callable[[], None]:
    rank = dist.get_rank()
    endpoint = Endpoint(rank, 2, torch.device("cpu"), timedelta(seconds=60), Watch(), first_tag=number * TAGS)
    other, boxes = 1 - 2 * rank, dict[bool, Any]()
    for receives in (True, False) if rank else (False, True):
        tag = int(receives != bool(rank))
        made = endpoint.inbox(other, tag, slots=2, ahead=1) if receives else endpoint.outbox(other, tag, depth=2)
        boxes[receives] = made
    boxes[True].expect(_REPEATS + 1)

    def there_and_back() -> None:
        for receives, box in boxes.items():
            box.receive() if receives else box.send(message)

    return there_and_back


def copy_rate() -> float:
    """Return the bytes/s that this process reads and writes while it copies memory."""
    source = torch.zeros(_COPIED // 4)
    target = torch.empty_like(source)
    dist.barrier()
    return 2 * _COPIED / _least(lambda: target.copy_(source))


def _least(work: Callable[[], object]) -> float:
    """Return the least of some timed seconds: other work can only make it longer."""
    return min(timeit.repeat(work, repeat=_REPEATS + 1, number=1)[1:])


@contextmanager
def side_by_side(processes: int) -> Iterator[Run]:
    """Yield what runs functions of modules in up to so many fresh processes of one thread on this machine.

    All calls share the processes, which start with the first one and end with the block.

    Raises:
        UserError: if one of them is killed.
    """
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        numbers = count()

        def run(work: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
            store = f"file://{folder}/{next(numbers)}"
            # Every rank waits for the others, hence has a process for itself.
            waiting = [pool.submit(_rank, store, rank, ranks, work, arguments) for rank in range(ranks)]
            try:
                return [future.result() for future in waiting]
            except BrokenProcessPool:
                raise UserError("a process that measured this machine was killed; give it more memory") from None

        yield run


def _rank(store: str, rank: int, ranks: int, work: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    torch.set_num_threads(1)
    set_missing(os.environ, ranks, "127.0.0.1")
    dist.init_process_group("gloo", store, timedelta(seconds=60), rank=rank, world_size=ranks)
    try:
        dist.barrier()  # a rank that ended at once would close a connection that another one is still making
        return work(*arguments)
    finally:
        dist.destroy_process_group()
