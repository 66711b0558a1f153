"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

from layerpipe2.engine.allocator import keep_freed_memory

# By the allocator's own books: the kernel's counts of page faults depend on what else the machine does.
PROGRAM = """
import ctypes, sys
import torch
from layerpipe2.engine.allocator import keep_freed_memory

class Books(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Books
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
for _ in range(4):
    tensors = [torch.zeros(1 << 20) for _ in range(8)]
    del tensors
print(mallinfo().fordblks)
"""
FREED = 8 * 4 * 2**20


def run(mode, **environment):
    command = [sys.executable, "-c", PROGRAM, mode]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    effect, kept = found.stdout.split()
    return effect, int(kept)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc only")
def test_freed_tensors_stay_with_the_process():
    # By default glibc adapts to what a process frees, and some processes happen to keep half of it.
    assert any(run("leave")[1] < FREED / 2 for _ in range(12))
    effect, kept = run("keep")
    assert effect == "True"
    assert kept >= 0.9 * FREED


def test_settings_of_the_environment_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "65536")
    assert not keep_freed_memory()
