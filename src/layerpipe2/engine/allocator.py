"""Two settings of glibc's ``malloc``, so that a training step reuses the memory of the step before.

By default ``free`` gives large blocks back to the system, and the next step asks for them again, a page at a time: on
eight convolutions of 64 channels several thousand page faults per step, an eighth of its time, in some processes and
not in others. With these settings a process keeps its largest amount of memory until it ends. Results don't change.
"""

import ctypes
import os

# malloc.h. The larger limit is refused by old versions of glibc; the smaller one is the largest that they take.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LIMITS = (1 << 30, 1 << 25)
_NEVER = 2**31 - 1
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have ``malloc`` keep what is freed, in processes that do nothing but train.

    Returns:
        Whether it took effect: not without glibc, nor where the environment has settings of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _SETTINGS):
        return False
    return any(mallopt(_MMAP_THRESHOLD, limit) for limit in _LIMITS) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
