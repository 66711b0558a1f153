"""Balanced stages: the profile reads the clock rightly, the cut is the best, its prediction what a pipeline does."""

import copy
import itertools
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.planning import Costs, Link, StageWork, Work, profiling
from layerpipe2.planning.balance import Balance, balanced
from layerpipe2.planning.profiling import profile
from layerpipe2.planning.schedules import build_schedule, simulate
from layerpipe2.stages import partition_at
from layerpipe2.strategies.latest import Latest


def times(draw, units, sizes=False):
    """Units with drawn times in s and, if asked for, outputs of drawn sizes."""
    seconds = [[draw.uniform(0.1, 2) for _ in range(3)] for _ in range(units)]
    output = [draw.randint(1, 9) if sizes else 0 for _ in range(units)]
    return tuple(StageWork(*map(Work, t), output_bytes=o) for t, o in zip(seconds, output, strict=True))


@pytest.mark.parametrize("with_history", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_is_faster(seed, with_history):
    draw = random.Random(seed)
    units = times(draw, draw.randint(1, 9), sizes=True)
    link = draw.choice([Link(), Link(bandwidth=2.0)])
    slow = tuple(replace(u, weight=Work(u.weight.flops + draw.uniform(0, 2))) for u in units) if with_history else ()

    def seconds(starts):  # all stages but the last have a history
        cuts = itertools.pairwise([*starts, len(units)])
        return [sum(u.total.flops for u in (units if b == len(units) else slow or units)[a:b]) for a, b in cuts]

    def slowest(starts):
        return max([*seconds(starts), *(link.occupation(units[start - 1].output_bytes) for start in starts[1:])])

    for stages in range(1, len(units) + 1):
        others = ((0, *rest) for rest in itertools.combinations(range(1, len(units)), stages - 1))
        best = balanced(units, stages, link, delayed=slow)
        assert len(best.starts) == stages
        assert slowest(best.starts) == pytest.approx(min(map(slowest, others)))
        assert best.seconds == pytest.approx(seconds(best.starts))
        assert best.sequential == pytest.approx(sum(unit.total.flops for unit in units))
    assert balanced(units, 1, delayed=slow).speedup() == pytest.approx(1)


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
@pytest.mark.parametrize("seed", range(6))
def test_the_predicted_speed_is_the_simulated_pipelines(seed, convention):
    best = balanced(times(random.Random(seed), 9), 4)
    costs = Costs(best.stages, Delays.by_law(convention, 4))
    line = simulate(build_schedule(convention, 4, 4, 200), costs, best.device)
    assert best.period(convention) <= line.period * (1 + 1e-9)
    assert line.period == pytest.approx(best.period(convention), rel=0.12)


def test_stages_that_recompute_are_cut_shorter():
    units = (StageWork(Work(2), Work(2), Work(0), saved_bytes=8, input_bytes=4),) * 7
    best = balanced(units, 2, recomputes=True)
    assert balanced(units, 2).starts in ((0, 3), (0, 4))
    assert (best.starts, best.seconds, best.speedup()) == ((0, 3), (18, 16), 28 / 18)
    assert balanced(units, 1, recomputes=True).speedup() == 1


def test_a_slow_link_bounds_the_speed():
    units = tuple(StageWork(Work(1), Work(2), Work(0), output_bytes=size) for size in (100, 100, 1, 100))
    assert balanced(units, 2).starts == (0, 2)
    assert balanced(units, 2, Link(bandwidth=10.0)).starts == (0, 3)
    # 12 s of computing and 10 s each way, with the three mini-batches that a delay of 2 has in the loop.
    assert Balance(units, (0, 2), Link(bandwidth=10.0)).period() == pytest.approx((12 + 20) / 3)
    assert Balance(units, (0, 3), Link(bandwidth=10.0)).period() == 9


class Clock:
    """A clock that only the work below moves."""

    seconds = 0.0

    def perf_counter(self):
        return self.seconds


CLOCK = Clock()


class Timed(torch.autograd.Function):
    @staticmethod
    def forward(context, x, seconds):
        context.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        CLOCK.seconds += context.seconds
        return gradient, None


class Layer(nn.Module):
    """Takes these seconds forward and backward, some of it the weight's, and a hundred times as long at first."""

    def __init__(self, forward, backward, weight=0, slow_steps=0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seconds, self.slow_steps = (forward, backward - weight, weight), slow_steps

    def forward(self, x):
        if x.is_meta:  # counted, not run
            return x * self.weight
        forward, activation, weight = (s * (100 if self.slow_steps > 0 else 1) for s in self.seconds)
        self.slow_steps -= 1
        CLOCK.seconds += forward
        if weight:
            return Timed.apply(x, activation) * Timed.apply(self.weight, weight)
        return Timed.apply(x * self.weight, activation)


class Timing(torch.optim.SGD):
    def step(self):
        CLOCK.seconds += 0.5
        super().step()


def test_the_profile_is_the_median_of_the_timed_steps(monkeypatch):
    monkeypatch.setattr(profiling, "time", CLOCK)
    layers = [Layer(1, 2, 0, 2), Layer(3, 5, 0, 2), nn.Flatten(), Layer(2, 4, 0, 2)]
    before = copy.deepcopy(layers)
    work = profile(layers, torch.ones(4, 3), lambda p: Timing(p, lr=0.1), repeats=3, warmup=2)
    assert [u.forward.flops for u in work] == [1, 3, 0, 2]
    assert [u.activation.flops for u in work] == [2, 5, 0, 4]
    assert [u.weight.flops for u in work] == [0.5, 0.5, 0, 0.5]
    assert [(u.parameter_bytes, u.output_bytes) for u in work] == [(12, 48), (12, 48), (0, 48), (12, 48)]
    for layer, old in zip(layers, before, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), old.parameters(), strict=True))
        assert all(p.grad is None for p in layer.parameters())
    slow = profile(layers, torch.ones(4, 3), repeats=2, warmup=0)
    assert [(u.forward.flops, u.weight.flops) for u in slow] == [(100, 0), (300, 0), (0, 0), (200, 0)]
    assert balanced(work, 2).starts == (0, 2)


class Slow(Latest):
    """A strategy that takes its time."""

    def backward(self, state, latest, used):
        CLOCK.seconds += 0.25
        return latest

    def update(self, state, before, after):
        assert (before - after).any()
        CLOCK.seconds += 8
        return after


def test_the_profile_of_delayed_stages_counts_their_history(monkeypatch):
    monkeypatch.setattr(profiling, "time", CLOCK)
    layers = [Layer(1, 2), nn.Flatten(), Layer(3, 5)]
    before = copy.deepcopy(layers)
    make, history = lambda p: Timing(p, lr=0.1), Slow()
    work = profile(layers, torch.ones(4, 3), make, history=history, repeats=3)
    assert [u.forward.flops for u in work] == [1, 0, 3]
    assert [u.activation.flops for u in work] == [2.25, 0, 5.25]
    assert [u.weight.flops for u in work] == [8.5, 0, 8.5]
    assert all(torch.equal(layer.weight, old.weight) for layer, old in zip(layers[::2], before[::2], strict=True))


def test_a_split_profile_tells_the_two_kinds_of_gradients_apart(monkeypatch):
    monkeypatch.setattr(profiling, "time", CLOCK)
    layers = [Layer(0, 7, 5), nn.Sequential(Layer(0, 7, 5), nn.Flatten(), Layer(0, 7, 5))]
    whole = profile(layers, torch.ones(4, 3), repeats=1)
    assert [(u.activation.flops, u.weight.flops) for u in whole] == [(5, 0), (14, 0)]
    split = profile(layers, torch.ones(4, 3), split=True, repeats=1)
    assert [(u.activation.flops, u.weight.flops) for u in split] == [(0, 5), (4, 10)]
    with pytest.raises(UserError, match="a weight history or a split backward pass; give one of them"):
        profile(layers, torch.ones(4, 3), lambda p: Timing(p, lr=0.1), history=Latest(), split=True)


def test_cutting_at_starts():
    layers = [nn.Linear(1, 1) for _ in range(5)]
    assert [list(stage) for stage in partition_at(layers, [0, 2, 3])] == [layers[:2], layers[2:3], layers[3:]]
    assert [list(stage) for stage in partition_at(layers, [0])] == [layers]


@pytest.mark.parametrize("starts", [[], [1], [0, 0], [0, 3, 2], [0, 5], [0, 2.0], [False, 2], [-1, 2], 5, None])
def test_starts_that_do_not_cut(starts):
    with pytest.raises(UserError, match=r"do not cut 5 units; give rising integers from 0 to at most 4"):
        partition_at([nn.Linear(1, 1)] * 5, starts)


LAYERS, X, UNIT = [nn.Linear(3, 3)], torch.ones(2, 3), StageWork(Work(1), Work(1), Work(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balanced([UNIT], 2), "number of stages for 1 units is 2; give an integer from 1 to 1"),
        (lambda: profile(LAYERS, X, repeats=0), "repeats of the profile is 0; give an integer >= 1"),
        (lambda: profile(LAYERS, X, warmup=-1), "warmup of the profile is -1"),
        (lambda: profile(LAYERS, torch.ones(2, 4)), "stage 0 cannot take an input of shape"),
        (lambda: profile(LAYERS, X, history=Latest()), "updates; give make_optimizer, too"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
