"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

from layerpipe2.engine.allocator import keep_freed_memory

# By the allocator's own books: the kernel's counts of page faults depend on what else the machine does.
PROGRAM = """
import ctypes
import torch
from layerpipe2.engine.allocator import keep_freed_memory

class Books(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Books
for keep in (lambda: None, keep_freed_memory):
    effect = keep()
    for _ in range(4):
        tensors = [torch.zeros(1 << 20) for _ in range(8)]
        del tensors
    print(effect, mallinfo().fordblks)
"""
FREED = 8 * 4 * 2**20


def kept():
    """Bytes that a new process keeps of what it frees: by default, and by ours, which must have an effect."""
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    none, default, effect, ours = found.stdout.split()
    assert (none, effect) == ("None", "True")
    return int(default), int(ours)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc only")
def test_freed_tensors_stay_with_the_process():
    for _ in range(12):
        default, ours = kept()
        assert ours >= 0.9 * FREED
        if default < FREED / 2:  # by default glibc adapts to what a process frees, and some happen to keep half of it
            return
    pytest.fail("by default, each process kept half of what it freed")


def test_settings_of_the_environment_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "65536")
    assert not keep_freed_memory()
