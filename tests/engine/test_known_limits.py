"""What the audit can't see, with an example of each that shows the difference; the list in docs and in ``audit.py``.

Stages that share a ``box`` train in the simulation; in real processes each would have a box of its own.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import make_strategy
from tests.engine.test_side_channels import By, getting, linear, putting_detached, stages_of
from tests.engine.training import checkpoint, engine, fit, module, resume, resumes, train

WEIGHTS = {}


class _ByGlobal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x)
        WEIGHTS["last"] = weight.detach().clone()
        return x @ weight.T

    @staticmethod
    def backward(ctx, gy):
        return gy @ WEIGHTS["last"], gy.T @ ctx.saved_tensors[0]


class _ByNumbers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x)
        ctx.numbers = weight.tolist()
        return x @ weight.T

    @staticmethod
    def backward(ctx, gy):
        return gy @ torch.tensor(ctx.numbers), gy.T @ ctx.saved_tensors[0]


def plain(x, weight):
    return x @ weight.T


def losses_of(function, strategy):
    torch.manual_seed(0)
    middle = nn.Sequential(nn.Linear(8, 8), By(lambda layer, x: function(x, layer.weight), {}))
    return train(engine(middle, strategy, Delays.custom([4, 2, 0])), 12)


@pytest.mark.parametrize("function", [_ByGlobal.apply, _ByNumbers.apply])
def test_weights_by_a_global_name_or_as_numbers_stay_those_of_the_forward_pass(function):
    assert losses_of(function, "stash") == pytest.approx(losses_of(plain, "stash"), rel=1e-6)
    assert losses_of(function, "latest") != pytest.approx(losses_of(plain, "latest"), rel=1e-6)


def test_a_way_that_is_taken_only_in_passes_that_are_not_audited():
    class Late(nn.Linear):
        passes, scaled = 0, False

        def forward(self, x):
            self.passes += 1
            weight = 1.0 * self.weight if self.passes > 2 and self.scaled else self.weight  # a copy
            return F.linear(x, weight, self.bias)

    losses = []
    for scaled in (False, True):
        torch.manual_seed(0)
        layer = Late(8, 8)
        layer.scaled = scaled
        losses.append(train(engine(layer, "latest", Delays.custom([4, 2, 0])), 12))
    assert losses[0] != losses[1]


def putting_number(layer, x):
    y = linear(layer, x)
    layer.box["value"] = float(y.detach().norm())
    return y


def scaling(layer, x):
    return linear(layer, x) * layer.box.get("value", 1)


def putting_array(layer, x):
    y = linear(layer, x)
    layer.box["array"] = y.detach().numpy().copy()
    return y


def getting_array(layer, x):
    return linear(layer, x) + torch.from_numpy(layer.box["array"]) if "array" in layer.box else linear(layer, x)


def leaving_gradients(layer, x):
    y = linear(layer, x)
    y.register_hook(lambda gradient: layer.box.update(gradient=gradient.norm()))
    return y


def taking_gradients(layer, x):
    y = linear(layer, x)
    y.register_hook(lambda gradient: gradient + layer.box.get("gradient", 0))
    return y


def drawing_from_one(layer, x):
    generator = layer.box.setdefault("generator", torch.Generator().manual_seed(1))
    return linear(layer, x) + torch.rand(8, generator=generator)


def queueing(layer, x):
    y = linear(layer, x)
    layer.box.setdefault("queue", []).append(y.detach())
    return y


def waiting(layer, x):
    queue = layer.box.get("queue", [])
    return linear(layer, x) + (queue.pop(0) if len(queue) > 2 else 0)


CHANNELS = {
    "number": (putting_number, scaling),
    "copied array": (putting_array, getting_array),
    "the input of a stage that returns its input": (putting_detached, getting, nn.Identity),
    "gradients, by hooks": (taking_gradients, leaving_gradients),
    "a value that waits": (waiting, queueing),
    "one generator": (drawing_from_one, drawing_from_one),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_side_channels_that_are_not_seen(name):
    first, last, *between = CHANNELS[name]

    def losses(*, one_process):
        torch.manual_seed(0)
        stages = stages_of(first, last, between=between[0] if between else nn.Linear)
        stages = stages if one_process else [copy.deepcopy(stage) for stage in stages]
        return train(PipelineEngine(stages, Delays.custom([2, 1, 0]), make_strategy("stash")), 6)

    assert losses(one_process=True) != losses(one_process=False)


class Counting(nn.Linear):
    """Its outputs grow from mini-batch to mini-batch."""

    def __init__(self, persistent):
        super().__init__(4 * 64, 5)
        self.register_buffer("count", torch.zeros(()), persistent=persistent)

    def forward(self, x):
        if self.training:
            self.count += 1
        return super().forward(x) * (1 + 0.1 * self.count)


class Slowing(torch.optim.SGD):
    """Its steps become smaller, by a number that its state_dict hasn't got."""

    steps = 1

    def step(self, closure=None):
        self.steps += 1
        self.param_groups[0]["lr"] = 0.1 / self.steps
        return super().step(closure)


@resumes
@pytest.mark.parametrize(
    ("persistent", "optimizer", "same"),
    [(True, torch.optim.SGD, True), (False, torch.optim.SGD, False), (True, Slowing, False)],
)
def test_no_checkpoint_has_what_a_state_dict_leaves_out(persistent, optimizer, same, tmp_path):
    def make():
        made = module("ema-window", scheduler=None)
        made.make_optimizer = optimizer
        made.stages[3][0][1] = Counting(persistent)
        return made

    whole, resumed = fit(make(), 2), resume(checkpoint(tmp_path, make(), 1), make(), 2)
    assert same == all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
