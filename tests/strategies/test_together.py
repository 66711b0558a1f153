"""One call for all stages does what a call for each does, and only where the strategy is the one that it knows."""

import pytest
import torch

from layerpipe2 import make_strategy
from layerpipe2.strategies import begin, sweeps
from layerpipe2.strategies.average import MovingAverage
from layerpipe2.strategies.together import backward_of, copies_to, update_of
from tests.strategies.recalling import walk

SIZES, DELAYS = (130, 64, 7), (5, 2, 1)
KNOWN = ("ema-window", "ema-0.9", "ema-lsq", "pair", "pair-0.5")


def stages(strategy, weights, delays=DELAYS):
    step = torch.zeros(1, dtype=torch.int64)
    return [begin(strategy, w, delay, step) for w, delay in zip(weights, delays, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KNOWN)
def test_all_stages_in_one_call(name, dtype):
    torch.manual_seed(0)
    strategy, paths = make_strategy(name), [walk(13, size).to(dtype) for size in SIZES]
    after, out = ([torch.empty(size, dtype=dtype) for size in SIZES] for _ in range(2))
    alone, together = (stages(strategy, [path[0] for path in paths]) for _ in range(2))
    update, backward = update_of(strategy, together, after), backward_of(strategy, together, after, out)
    for t in range(12):
        copies_to(after)([path[t + 1] for path in paths])
        update([path[t] for path in paths])
        for path, state in zip(paths, alone, strict=True):
            strategy.update(state, path[t], path[t + 1])
        for states in (alone, together):
            states[0]["step"] += 1
            for state, delay in zip(states, DELAYS, strict=True):
                state["lag"].copy_(state["step"].clamp(max=delay))
        backward()
        for w, o, state in zip(after, out, alone, strict=True):
            assert torch.equal(o, strategy.backward(state, w, w)), t
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[entry], other[entry]) for entry in one)


def test_what_the_loops_cannot_do_is_left_to_the_strategy(monkeypatch):
    class Other(MovingAverage):
        pass

    def known(strategy, weights, states=None):
        states = states or stages(strategy, weights)
        return {update_of(strategy, states, weights), backward_of(strategy, states, weights, weights)} != {None}

    floats = [torch.zeros(size) for size in SIZES]
    average = make_strategy("ema-span")
    assert known(average, floats)
    assert not known(Other(average.decay), floats)  # it may override either
    assert not known(make_strategy("ema-span-raw"), floats)
    assert not known(make_strategy("latest"), floats)
    assert not known(average, [one.bfloat16() for one in floats])
    assert not known(average, [floats[0].double(), *floats[1:]])
    assert not known(average, floats, [begin(average, w, 2) for w in floats])  # no common counter
    monkeypatch.setattr(sweeps, "loops", lambda: None)
    assert not known(average, floats)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_copies(dtype):
    targets = [torch.zeros(size, dtype=dtype) for size in SIZES]
    copy = copies_to(targets)
    for start in (1, 2):
        sources = [torch.arange(start, start + size).to(dtype) for size in SIZES]
        copy(sources)
        assert all(map(torch.equal, targets, sources))
