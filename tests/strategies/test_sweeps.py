"""One pass over memory gives what the averages' definitions say, and torch's operations stand in for it to rounding."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching

from layerpipe2 import compiling, make_strategy
from layerpipe2.strategies import begin, sweeps
from layerpipe2.strategies.pair import MEMORY
from tests.strategies.recalling import recall_along, walk

NAMES = ("ema-window", "ema-0.9", "ema-lsq-raw", "pair", "pair-0.5")
AVERAGES = ("ema-window", "ema-running", "ema-span", "ema-lsq", "ema-0.9")
SIZES = st.sampled_from([1, 7, 64, 1000])


@pytest.fixture
def without_loops(monkeypatch):
    def remove():
        monkeypatch.setattr(sweeps, "loops", lambda: None)

    return remove


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.sampled_from(AVERAGES), st.integers(1, 9), SIZES, st.integers(0, 2**31))
def test_an_average_is_its_recursion(name, delay, size, seed):
    torch.manual_seed(seed)
    weights, strategy = walk(26, size), make_strategy(name)
    average, expected = torch.zeros(size, dtype=torch.float64), [weights[0]]
    for j in range(24):
        beta = 0 if j == 0 else strategy.decay(min(j + 1, delay))
        average = beta * average + (1 - beta) * (weights[j] - weights[j + 1])
        expected.append(weights[j + 1] + min(j + 1, delay) * average)
    torch.testing.assert_close(recall_along(strategy, weights, delay), torch.stack(expected), rtol=0, atol=1e-12)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(1, 9), SIZES, st.integers(0, 2**31))
def test_a_pair_is_its_recursion(delay, size, seed):
    torch.manual_seed(seed)
    weights, pair = walk(26, size), make_strategy("pair")
    table, (cross, square) = pair.table(delay), (0.0, 0.0)
    edges = begin(pair, weights[0], delay)["edges"].tolist()
    average = newest = torch.zeros(size, dtype=torch.float64)
    expected = [weights[0]]
    for j in range(24):
        update = weights[j] - weights[j + 1]
        cross = MEMORY * cross + (1 - MEMORY) * float(update @ newest)
        square = MEMORY * square + (1 - MEMORY) * float(update @ update + newest @ newest) / 2
        gain, x, y = table[sum(edge < cross / square for edge in edges)]
        average = average + (1 / max(j, 1) if j < delay else gain) * (newest - average)
        newest = update
        x, y = (j, 1) if j + 1 <= delay else (x, y)
        expected.append(weights[j + 1] + x * average + y * newest)
    torch.testing.assert_close(recall_along(pair, weights, delay), torch.stack(expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", NAMES)
def test_torch_gives_the_same_to_rounding(name, dtype, rounding, without_loops):
    weights = walk(41, 130).to(dtype)
    fast = recall_along(make_strategy(name), weights, 6)
    without_loops()
    slow = recall_along(make_strategy(name), weights, 6)
    assert not torch.equal(fast, slow)  # two ways, not one
    torch.testing.assert_close(fast, slow, rtol=0, atol=rounding * float(weights.abs().max()) * 6)


@pytest.mark.parametrize("name", NAMES)
def test_types_without_a_loop_are_left_to_torch(name, without_loops):
    weights = walk(21, 30).bfloat16()
    there = recall_along(make_strategy(name), weights, 4)
    without_loops()
    assert torch.equal(there, recall_along(make_strategy(name), weights, 4))


@pytest.mark.parametrize("name", NAMES)
def test_vectors_with_gaps(name):
    weights, strategy = walk(21, 30), make_strategy(name)
    with_gaps = torch.stack([weights, weights], -1)[..., 0]
    assert not with_gaps[0].is_contiguous()
    found, expected = (recall_along(strategy, one, 4) for one in (with_gaps, weights))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_in_parts_gets_the_same_bits_wherever_it_lies(name):
    """A stage on a process of its own lies at another address."""
    weights, strategy = walk(21, 1001).float(), make_strategy(name)
    moved = torch.empty(21, 1003)[:, 1:-1].copy_(weights)
    assert torch.equal(recall_along(strategy, moved, 4), recall_along(strategy, weights, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_pair_goes_on_after_a_diverged_update(value, without_loops):
    weights, pair = torch.full((7, 3), value), make_strategy("pair")
    states = [begin(pair, weights[0], 3) for _ in range(2)]
    fast = recall_along(pair, weights, 3, states[0])
    without_loops()
    slow = recall_along(pair, weights, 3, states[1])
    assert torch.equal(states[0]["row"], states[1]["row"])
    torch.testing.assert_close(fast, slow, equal_nan=True)


def test_without_numba_torch_is_used():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from layerpipe2.strategies import sweeps\n"
        "ones = torch.ones(3)\n"
        "assert sweeps.loops() is None\n"
        "print(sweeps.add(ones, ones, torch.tensor([2])).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[3.0, 3.0, 3.0]\n"


def test_a_folder_that_cannot_be_written_to_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(compiling.pl.utilities, "rank_zero_info", said.append)
    compiling._say_once.cache_clear()
    functions = [compiling.compiled(lambda x: x + 1), compiling.compiled(lambda x: x + 2)]
    assert functions[1](1) == 3
    assert [message.partition(",")[0] for message in said] == [
        "layerpipe2: no folder for compiled code can be written to"
    ]
