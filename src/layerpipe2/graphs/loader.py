"""Mini-batches of sampled neighbourhoods, prepared by threads while the ones before them are trained.

One thread prepares a whole mini-batch: it samples, writes features and neighbours into a buffer, and on a GPU copies
them there on a stream of its own. What a mini-batch contains depends on (seed, epoch, number of the batch) alone, and
they come in order, so that training is the same bit for bit with any number of threads, or none.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from layerpipe2.engine.frozen_random import frozen_generator
from layerpipe2.errors import UserError, integer, shown
from layerpipe2.graphs import kernels
from layerpipe2.graphs.csr import Graph, Integers
from layerpipe2.graphs.sampler import Sample, Sampler

Batch = tuple[Tensor, Tensor]
THREADS = 64
"""Most threads of a loader."""


class Span(NamedTuple):
    """What a thread did (``sample``, ``slice``, ``transfer``) for which mini-batch, and when (ns)."""

    thread: str
    what: str
    batch: int
    start: int
    stop: int


class Buffers:
    """Tensors in memory that was allocated before, where there is some.

    Fresh memory costs a page fault per 4 KiB when it is written: as much as slicing itself. A buffer comes back when
    the last tensor in it is gone: also what autograd keeps for a backward pass, or a pipeline in flight, counts.

    Args:
        pinned: whether a GPU can copy from it while the CPU goes on.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self.free: deque[NDArray[np.uint8]] = deque()
        self.made = 0

    def take(self, shape: tuple[int, int], dtype: DTypeLike) -> Tensor:
        """Return a tensor on the CPU whose values are whatever was there."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            memory = self.free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if memory.size < size:
            self.made += 1
            # torch's allocator aligns as its own tensors are: kernels round by that.
            memory = torch.empty(size + size // 8, dtype=torch.uint8, pin_memory=self._pinned).numpy()
        array = memory[:size].view(dtype).reshape(shape)
        # The tensor holds this very array until its memory is released.
        weakref.finalize(array, self.free.append, memory).atexit = False
        return torch.from_numpy(array)


class SampledLoader:
    """Iterable over (x, y): x the table (rows, F + sum(fan_out)) of :mod:`layerpipe2.graphs.sampler`, y int64 (B,).

    Works as a Lightning data loader: Lightning calls ``set_epoch`` of `sampler`, and keeps the position in its
    checkpoints. Without Lightning call `set_epoch` before every epoch, otherwise each repeats the same batches. At most
    ``ahead`` mini-batches are prepared, or being prepared, beside those that the training holds; their memory is used
    again when the last tensor that lies in it is gone. A thread keeps 4 bytes per node of the graph.

    Args:
        graph: whose features may be float16, which halves what is read and sent; x is float32.
        nodes: that are trained, each once.
        fan_out: most neighbours per node, from the mini-batch's nodes outwards; a number per layer.
        batch_size: nodes per batch; the last batch of an epoch may be smaller.
        shuffle: whether each epoch has an order and neighbours of its own; else all have the same batches.
        seed: of order and neighbours.
        threads: that prepare mini-batches; 0: the training's own thread does.
        ahead: how many; none: one more than threads.
        padded: fill every batch up to the size that it can have at most, so that all but the last have the same shape.
            Stages in several processes need it.
        device: where x and y shall lie.
        spans: a list that gets a :class:`Span` for each piece of work.

    Raises:
        UserError: a node, fan-out or setting out of range.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Integers,
        fan_out: Sequence[int],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        threads: int = 1,
        ahead: int | None = None,
        padded: bool = False,
        device: torch.device | str = "cpu",
        spans: list[Span] | None = None,
    ) -> None:
        self.graph, self.nodes = graph, graph.checked_nodes(nodes, f"loader of graph {graph.name}")
        self.fan_out = graph.checked_fan_out(fan_out)
        self.batch_size, self.seed = integer(batch_size, "batch size", 1), integer(seed, "loader's seed", 0, 2**63 - 1)
        self.shuffle, self.padded, self.spans = shuffle, padded, spans
        self.threads = integer(threads, "number of threads", 0, THREADS)
        self.ahead = integer(threads + 1 if ahead is None else ahead, "batches ahead", max(1, threads), 2 * THREADS)
        self.device = _checked_device(device)
        self.epoch = 0
        self._first = self._yielded = 0
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._buffers = Buffers(pinned=self._stream is not None)
        self._samplers = deque([Sampler(graph, self.fan_out, batch_size)])

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self.nodes) // self.batch_size)

    @property
    def sampler(self) -> SampledLoader:
        """The object whose ``set_epoch`` Lightning calls: this one."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None: Lightning asks every validation loader that has a ``sampler`` for it."""
        return

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (counted from 0) that the next iteration yields."""
        if epoch != self.epoch:
            self.epoch, self._first, self._yielded = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return the position: the epoch, how many of its batches were yielded, and what decides which these were."""
        made_of = {"batch_size": self.batch_size, "seed": self.seed, "shuffle": int(self.shuffle)}
        return {"epoch": self.epoch, "yielded": self._yielded, "nodes": len(self.nodes), **made_of}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration, if it is of the saved epoch, begin after the batches already yielded.

        Raises:
            UserError: if the position is none, or that of a loader with other batches.
        """
        for name, mine in self.state_dict().items():
            if name not in ("epoch", "yielded") and state.get(name) != mine:
                what = f"the saved position is of a loader whose {name} is {shown(state.get(name))}, not {mine}"
                raise UserError(f"{what}; make the loader as it was, or begin anew")
        self.epoch = integer(state.get("epoch"), "saved position's epoch", 0)
        self._first = self._yielded = integer(state.get("yielded"), "saved position's batches", 0, len(self))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the chosen epoch; an error in a thread is raised here."""
        first, self._first = self._first, 0
        epoch, order = 0, self.nodes
        if self.shuffle:
            epoch = self.epoch
            order = order[frozen_generator("graph", self.seed, epoch).permutation(len(order))]
        prepare, numbers = partial(self._prepare, order, epoch), range(first, len(self))
        batches = _by_threads(prepare, numbers, self.threads, self.ahead) if self.threads else map(prepare, numbers)
        self._yielded = first
        for x, y in batches:  # enumerate would keep them while the next is prepared
            self._yielded += 1
            if self._stream is not None:  # its memory must not be used again before this stream is done with it
                for tensor in (x, y):
                    tensor.record_stream(torch.cuda.current_stream(self.device))
            yield x, y
            del x, y

    def _prepare(self, order: Integers, epoch: int, number: int) -> Batch:
        seeds = order[number * self.batch_size : (number + 1) * self.batch_size]
        try:
            sampler = self._samplers.pop()
        except IndexError:  # all are in use, or were lost by an error
            sampler = Sampler(self.graph, self.fan_out, self.batch_size)
        with self._span("sample", number):
            sample = sampler.sample(seeds, kernels.batch_key(self.seed, epoch, number))
        with self._span("slice", number):
            parts = self._slice(sampler, sample)
            y = torch.from_numpy(self.graph.labels[seeds])
        self._samplers.append(sampler)
        return (_joined(parts), y) if self._stream is None else self._sent(parts, y, number)

    def _slice(self, sampler: Sampler, sample: Sample) -> list[Tensor]:
        """Write the table, or, of features in half precision, its two parts: they are joined where they are needed."""
        features = self.graph.features
        rows, width, columns = int(sampler.ends(sample, padded=self.padded)[-1]), features.shape[1], sum(self.fan_out)
        if features.dtype == np.float16:
            parts = [self._buffers.take((rows, width), np.float16), self._buffers.take((rows, columns), np.int32)]
            sampler.slice(sample, *(part.numpy() for part in parts), padded=self.padded)
            return parts
        x = self._buffers.take((rows, width + columns), np.float32)
        table = x.numpy()
        sampler.slice(sample, table, table, padded=self.padded)
        return [x]

    def _sent(self, parts: list[Tensor], y: Tensor, number: int) -> Batch:
        """Copy to the device on the loader's own stream; the buffers are free after it."""
        with self._span("transfer", number), torch.cuda.stream(self._stream):
            x = _joined([part.to(self.device, non_blocking=True) for part in parts])
            y = y.to(self.device, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record()
            done.synchronize()
        return x, y

    @contextmanager
    def _span(self, what: str, number: int) -> Iterator[None]:
        start = time.monotonic_ns()
        yield
        if self.spans is not None:
            self.spans.append(Span(threading.current_thread().name, what, number, start, time.monotonic_ns()))


def _by_threads(prepare: Callable[[int], Batch], numbers: Iterable[int], threads: int, ahead: int) -> Iterator[Batch]:
    """Yield ``map(prepare, numbers)``, ``ahead`` of them early. However it ends, the threads have ended then."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sampling")
    jobs = (pool.submit(prepare, number) for number in numbers)
    try:
        under_way = deque(islice(jobs, ahead))
        while under_way:
            batch = under_way.popleft().result()
            under_way.extend(islice(jobs, 1))
            yield batch
            del batch
    finally:
        pool.shutdown(cancel_futures=True)


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise UserError(f"loader's device is {shown(device)}; give cpu or cuda")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"loader's device is {found}, but torch sees {torch.cuda.device_count()} GPUs; give cpu")
    return found


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([part.float() for part in parts], 1)
