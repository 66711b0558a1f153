"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from layerpipe2.heap import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
for step in range(6):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.zeros(1 << 20) for _ in range(8)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 3 * 8 * 1024  # of three steps


def run(mode, **environment):
    command = [sys.executable, "-c", PROGRAM, mode]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    effect, faults = found.stdout.split()
    return effect, int(faults)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc only")
def test_no_step_asks_for_its_memory_again():
    assert run("leave")[1] > PAGES / 2
    effect, faults = run("keep")
    assert (effect, faults < PAGES / 10) == ("True", True)


def test_settings_of_the_environment_stay():
    assert run("keep", MALLOC_TOP_PAD_="65536")[0] == "False"
