"""Memory for mini-batches that is used again as soon as nobody needs it, however long somebody keeps a mini-batch."""

import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor


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
        """A tensor on the CPU whose values are whatever was there."""
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
