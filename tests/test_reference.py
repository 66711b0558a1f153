"""The fast loop equals the clock-driven machine, for every strategy, grouping, convention and optimizer."""

import copy
import math
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import STRATEGIES, make_strategy, partition
from layerpipe2.delays import DELAY_LAWS, Delays
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.spiking import Neuron, Neurons, Readout
from layerpipe2.strategies import raw_forms
from tests.reference import CLOCKS, Method, clock_of, delay_of, run_clocked
from tests.sampling import sampled

ALL = [*(s for s in STRATEGIES if s != "sequential"), *raw_forms()]
OTHER = ["ema-0.5", "pair-0.5", "ema-0.5-raw"]
"""Strategies that the reference has no formula for, as any new one: it runs their own code on its clock."""
PIPELINED = [name for name, law in DELAY_LAWS.items() if any(law.delays(3))]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


def mlp() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(5):
        layers += [nn.Sequential(nn.Linear(6, 6), nn.ReLU())]
    return [*layers, nn.Sequential(nn.Linear(6, 4))]


def cnn() -> list[nn.Module]:
    def unit(c: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c, 4, 3, stride, 1), nn.BatchNorm2d(4), nn.ReLU())

    return [unit(2, 1), unit(4, 2), unit(4, 1), nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 4))]


def spiking() -> list[nn.Module]:
    neuron, steps = Neuron(membrane_decay=0.6, threshold=0.4), 3
    first = nn.Sequential(nn.Linear(6, 12), Neurons(neuron, steps, constant=True))
    hidden = [nn.Sequential(nn.Linear(12, 12), Neurons(neuron, steps)) for _ in range(3)]
    for unit in hidden:
        nn.init.normal_(unit[0].weight, std=0.5)
    return [first, *hidden, nn.Sequential(Readout(nn.Linear(12, 4), neuron, steps, "rate"))]


NETWORKS = {"mlp": (mlp, (6,)), "cnn": (cnn, (2, 6, 6)), "spiking": (spiking, (6,))}


def flat_stages(units: list[nn.Module], group_size: int) -> list[nn.Sequential]:
    """Stages as flat lists of layers, which is what the reference reads."""
    return [nn.Sequential(*(layer for unit in stage for layer in unit)) for stage in partition(units, group_size)]


def problem(network: str, group_size: int):
    make, shape = NETWORKS[network]
    steps = 14 if network == "spiking" else 24  # more than the longest delay
    torch.manual_seed(0)
    stages = flat_stages([m.double() for m in make()], group_size)
    batches = [(torch.randn(8, *shape, dtype=torch.float64), torch.randint(4, (8,))) for _ in range(steps)]
    return stages, batches


def settings(strategy, optimizer="momentum", convention="layerpipe2", lr_of=lambda t: 0.02, clip=None):
    make = OPTIMIZERS[optimizer]
    return {"strategy": strategy, "convention": convention, "make_optimizer": make, "lr_of": lr_of, "clip": clip}


def run_fast(stages, batches, *, strategy, convention, make_optimizer, lr_of, clip):
    delays = Delays.by_law(convention, len(stages))
    engine = PipelineEngine(stages, delays, make_strategy(strategy), gradient_clip_norm=clip)
    optimizer = make_optimizer([p for s in stages for p in s.parameters()])
    losses = []
    for t, (x, y) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr_of(t)
        losses.append(float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]))
    return losses


def assert_same(network, group_size, **chosen):
    stages, batches = problem(network, group_size)
    twins = copy.deepcopy(stages)
    expected = run_clocked(twins, batches, **chosen)
    losses = run_fast(stages, batches, **chosen)
    assert losses == pytest.approx(expected, abs=1e-12)
    assert math.isfinite(losses[-1])
    assert len(set(losses)) == len(losses)
    for mine, theirs in zip(stages, twins, strict=True):
        for (name, a), b in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            if "num_batches" not in name:
                torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("convention", sampled([*PIPELINED], ["layerpipe2"]))
@pytest.mark.parametrize("strategy", ALL + OTHER)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_strategy_in_both_conventions(network, strategy, convention):
    assert_same(network, 1, **settings(strategy, convention=convention))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-window", "ema-span-raw"])
@pytest.mark.parametrize("group_size", sampled([1, 2, 3, 4, 6], [4]))
def test_every_group_size_and_optimizer(group_size, strategy, optimizer):
    lr = 0.002 if optimizer == "adamw" else 0.02
    assert_same("mlp", group_size, **settings(strategy, optimizer, lr_of=lambda t: lr / (1 + 0.1 * t)))


@pytest.mark.parametrize("strategy", ["latest", "ema-span-raw"])
@pytest.mark.parametrize("group_size", sampled([2, 3, 5], [3]))
def test_spiking_networks_in_every_group_size(group_size, strategy):
    assert_same("spiking", group_size, **settings(strategy))


@pytest.mark.parametrize("strategy", ["stash", "ema-window", "ema-lsq-raw"])
def test_clipping_and_a_schedule_that_moves_every_step(strategy):
    assert_same("cnn", 1, **settings(strategy, lr_of=lambda t: 0.05 * (1 + math.cos(t / 8)), clip=0.05))


def test_strategies_differ_from_each_other():
    finals = {}
    for strategy in ALL:
        stages, batches = problem("mlp", 1)
        run_fast(stages, batches, **settings(strategy))
        finals[strategy] = torch.cat([p.flatten() for s in stages for p in s.parameters()])
    for i, a in enumerate(ALL):
        for b in ALL[i + 1 :]:
            same = {a, b} == {"stash", "update-window"}
            assert torch.allclose(finals[a], finals[b], rtol=0, atol=1e-12) == same, (a, b)


def test_delay_law_comes_out_of_the_clock():
    # A forward tick reads the updates of all backward ticks before it; the reference's clock knows nothing else.
    for convention in PIPELINED:
        for K in range(1, 9):
            for k in range(K):
                period, forward, backward = ticks = clock_of(convention)(K, k)
                t = 50
                updates = sum(backward + period * b < forward + period * t for b in range(2 * t))
                assert t - updates == delay_of(ticks) == DELAY_LAWS[convention].delays(K)[k]


@dataclass
class Noting(Method):
    """Stashing that notes for each backward pass: updates until then, and since the forward pass."""

    noted: list[tuple[int, int]] = field(default_factory=list)

    def backward_weights(self, used_forward, since):
        self.noted.append((len(self.past) - 1, since))
        return used_forward

    def note_update(self, before, after, scaled_gradient):
        self.past.append(after)
        return after


@pytest.mark.parametrize("accumulate", range(1, 6))
def test_lags_of_accumulated_updates_come_out_of_the_clock(accumulate, monkeypatch):
    K, T, a, methods = 10, 60, accumulate, []
    monkeypatch.setitem(CLOCKS, "custom", lambda K, k: (K, 0, K * (9 - k) + K - 1 - k))
    modules = [nn.Sequential(nn.Linear(2, 2)).double() for _ in range(K)]
    batches = [(torch.randn(3, 2).double(), torch.randint(2, (3,)))] * T

    def note(delay, start):
        methods.append(Noting(None, delay, [start]))
        return methods[-1]

    how = {"make_optimizer": OPTIMIZERS["sgd"], "lr_of": lambda t: 0.1, "accumulate": a}
    run_clocked(modules, batches, strategy=note, convention="custom", **how)
    for D, method in zip(range(9, -1, -1), methods, strict=True):
        assert method.noted == [(t // a, t // a - max(0, t - D) // a) for t in range(T)]
        assert method.delay == max(since for _, since in method.noted) == -(-D // a)
        if D % a == 0:
            assert all(since == min(updates, D // a) for updates, since in method.noted)


@pytest.mark.parametrize("strategy", ["stash", "latest"])
@pytest.mark.parametrize("a", [2, 3, 4])
def test_accumulation_of_two_stages_is_their_recursion(a, strategy):
    """Three layers, the first two of them a stage with delay 2: z = W1 relu(W0 x + b0) + b1, out = W2 z + b2."""
    torch.manual_seed(0)
    layers = [nn.Linear(2, 3).double(), nn.Linear(3, 3).double(), nn.Linear(3, 2).double()]
    batches = [(torch.randn(5, 2).double(), torch.randint(2, (5,))) for _ in range(24)]
    latest = [p.detach().clone() for layer in layers for p in layer.parameters()]
    past, mean = [latest], [torch.zeros_like(p) for p in latest]
    for t, (x, y) in enumerate(batches):
        W0, b0, W1, b1, _, _ = past[max(0, t - 2) // a]
        W2, b2 = latest[4:]
        h = (x @ W0.T + b0).clamp(min=0)
        z = h @ W1.T + b1
        at_out = ((z @ W2.T + b2).softmax(1) - F.one_hot(y, 2)) / len(y)
        at_z = at_out @ W2
        at_h = at_z @ (W1 if strategy == "stash" else latest[2]) * (h > 0)
        gradients = [at_h.T @ x, at_h.sum(0), at_z.T @ h, at_z.sum(0), at_out.T @ z, at_out.sum(0)]
        mean = [m + g / a for m, g in zip(mean, gradients, strict=True)]
        if (t + 1) % a == 0:
            latest = [p - 0.3 * m for p, m in zip(latest, mean, strict=True)]
            past, mean = [*past, latest], [torch.zeros_like(p) for p in latest]
    stages = [nn.Sequential(layers[0], nn.ReLU(), layers[1]), nn.Sequential(layers[2])]
    run_clocked(stages, batches, accumulate=a, **settings(strategy, "sgd", lr_of=lambda t: 0.3))
    for mine, p in zip((p for layer in layers for p in layer.parameters()), latest, strict=True):
        torch.testing.assert_close(mine.detach(), p, rtol=0, atol=1e-12)
