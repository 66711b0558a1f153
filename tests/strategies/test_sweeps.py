"""One pass over memory gives what the averages' definitions say, and torch's operations stand in for it to rounding."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerpipe2 import make_strategy
from layerpipe2.strategies import begin, count, sweeps
from layerpipe2.strategies.pair import MEMORY

NAMES = ("ema-window", "ema-0.9", "ema-lsq-raw", "pair", "pair-0.5")
AVERAGES = ("ema-window", "ema-running", "ema-span", "ema-lsq", "ema-0.9")
SIZES = st.sampled_from([1, 7, 64, 1000])


class Rates:
    """An optimizer of which a strategy asks the learning rates: 0.5."""

    def __init__(self, like):
        self.like = like

    def rate(self):
        return torch.full_like(self.like, 0.5)


def path(steps, size, dtype=torch.float64, seed=0):
    steps = torch.randn(steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return steps.cumsum(0).to(dtype)


def recalled(name, weights, delay):
    """What the strategy recalls after every update, and its state in the end."""
    strategy = make_strategy(name)
    state, found = begin(strategy, weights[0], delay), []
    for before, after in pairwise(weights):
        strategy.forward(state, before, Rates(before))
        strategy.gradient(state, before - after, before, before)
        strategy.update(state, before, after)
        count(state, delay)
        found.append(strategy.backward(state, after, before))
    return torch.stack(found), state


@pytest.fixture
def without_loops(monkeypatch):
    def remove():
        monkeypatch.setattr(sweeps, "_loops", lambda: None)

    return remove


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.sampled_from(AVERAGES), st.integers(1, 9), SIZES, st.integers(0, 2**31))
def test_an_average_is_its_recursion(name, delay, size, seed):
    weights, decay = path(25, size, seed=seed), make_strategy(name).decay
    average, expected = torch.zeros(size, dtype=torch.float64), []
    for j in range(24):
        beta = 0 if j == 0 else decay(min(j + 1, delay))
        average = beta * average + (1 - beta) * (weights[j] - weights[j + 1])
        expected.append(weights[j + 1] + min(j + 1, delay) * average)
    torch.testing.assert_close(recalled(name, weights, delay)[0], torch.stack(expected), rtol=0, atol=1e-12)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(1, 9), SIZES, st.integers(0, 2**31))
def test_a_pair_is_its_recursion(delay, size, seed):
    weights, pair = path(25, size, seed=seed), make_strategy("pair")
    table, (cross, square) = pair.table(delay), (0.0, 0.0)
    edges = begin(pair, weights[0], delay)["edges"].tolist()
    average = newest = torch.zeros(size, dtype=torch.float64)
    expected = []
    for j in range(24):
        update = weights[j] - weights[j + 1]
        cross = MEMORY * cross + (1 - MEMORY) * float(update @ newest)
        square = MEMORY * square + (1 - MEMORY) * float(update @ update + newest @ newest) / 2
        gain, x, y = table[sum(edge < cross / square for edge in edges)]
        average = average + (1 / max(j, 1) if j < delay else gain) * (newest - average)
        newest = update
        x, y = (j, 1) if j + 1 <= delay else (x, y)
        expected.append(weights[j + 1] + x * average + y * newest)
    torch.testing.assert_close(recalled("pair", weights, delay)[0], torch.stack(expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", NAMES)
def test_torch_gives_the_same_to_rounding(name, dtype, rounding, without_loops):
    weights = path(40, 130, dtype)
    fast = recalled(name, weights, 6)[0]
    without_loops()
    slow = recalled(name, weights, 6)[0]
    assert not torch.equal(fast, slow)  # two ways, not one
    torch.testing.assert_close(fast, slow, rtol=0, atol=rounding * float(weights.abs().max()) * 6)


@pytest.mark.parametrize("name", NAMES)
def test_types_without_a_loop_are_left_to_torch(name, without_loops):
    weights = path(20, 30, torch.bfloat16)
    there = recalled(name, weights, 4)[0]
    without_loops()
    assert torch.equal(there, recalled(name, weights, 4)[0])


@pytest.mark.parametrize("name", NAMES)
def test_vectors_with_gaps(name):
    weights = path(20, 30)
    with_gaps = torch.stack([weights, weights], -1)[..., 0]
    assert not with_gaps[0].is_contiguous()
    torch.testing.assert_close(recalled(name, with_gaps, 4)[0], recalled(name, weights, 4)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_in_parts_gets_the_same_bits_wherever_it_lies(name):
    """A stage on a process of its own lies at another address."""
    weights = path(20, 1001, torch.float32)
    moved = torch.empty(20, 1003)[:, 1:-1].copy_(weights)
    assert torch.equal(recalled(name, moved, 4)[0], recalled(name, weights, 4)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_pair_goes_on_after_a_diverged_update(value, without_loops):
    weights = torch.full((6, 3), value)
    fast = recalled("pair", weights, 3)
    without_loops()
    slow = recalled("pair", weights, 3)
    assert torch.equal(fast[1]["row"], slow[1]["row"])
    torch.testing.assert_close(fast[0], slow[0], equal_nan=True)


def test_without_numba_torch_is_used():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from layerpipe2.strategies import sweeps\n"
        "ones = torch.ones(3)\n"
        "assert sweeps._loops() is None\n"
        "print(sweeps.add(ones, ones, torch.tensor([2])).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[3.0, 3.0, 3.0]\n"


def test_a_folder_that_cannot_be_written_to_is_said_once(tmp_path):
    code = (
        "import os; from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from layerpipe2.compiling import compiled\n"
        "print([compiled(lambda x: x + 1)(1), compiled(lambda x: x + 2)(1)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 3]\n"
    assert done.stderr.count("no folder for compiled code can be written to") == 1
