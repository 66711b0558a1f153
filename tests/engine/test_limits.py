"""What reasonable networks do inside a stage: it trains rightly, or it is refused in one line. Never silently wrong."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.step import PipelineEngine
from tests.engine.training import engine, load, optimizer_of, train

PRODUCTS = (
    lambda bias, left, right: left @ right,
    torch.addmm,
    lambda bias, left, right: torch.addmv(bias, left, right[0]),
    lambda bias, left, right: torch.baddbmm(bias, left[None], right[None])[0],
    lambda bias, left, right: F.conv1d(left[None], right[:, :, None], bias),
)


class Gate(nn.Linear):
    """Multiplies by what the weights make of a state of zeros, which stands on either side of them."""

    def __init__(self, product):
        super().__init__(8, 8)
        self.product = product

    def forward(self, x):
        zero = torch.zeros(8, 8)
        for pair in ((zero, self.weight), (self.weight, zero)):
            x = torch.sigmoid(self.product(self.bias, *pair).view(-1, 8)[0]) * x
        return super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        *(lambda product=product: Gate(product) for product in PRODUCTS),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda: nn.LSTM(8, 8, num_layers=2),
        lambda: nn.GRU(8, 4, bidirectional=True),
    ],
)
def test_layers_with_constants_of_their_own_are_not_refused(layer):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer()

        def forward(self, x):
            y = self.inner(x.unsqueeze(1))
            return (y[0] if isinstance(y, tuple) else y).squeeze(1)

    pipeline = engine(Wrapped(), "ema-window")
    before = copy.deepcopy(pipeline.stages[1].state_dict())
    train(pipeline, 4)
    assert all(not torch.equal(before[name], p) for name, p in pipeline.stages[1].named_parameters())


class Residual(nn.Linear):
    """A graph of ``2 ** 60`` paths."""

    def forward(self, x):
        x = super().forward(x)
        for _ in range(60):
            x = x + 0.1 * torch.tanh(x)
        return x


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return function(x, 1)

    @staticmethod
    def backward(ctx, gy):
        return ctx.function(gy, 1), None


class Recursive(nn.Linear):
    """An autograd function keeps a function, whose closure holds the function itself."""

    def forward(self, x):
        def double(v, times):
            return double(2 * v, times - 1) if times else v

        return Doubling.apply(super().forward(x), double)


@pytest.mark.parametrize("layer", [Residual, Recursive])
def test_the_audit_of_a_graph_ends(layer):
    train(engine(layer(8, 8), "ema-window"), 2)


class Replacing(nn.Linear):
    def __init__(self):
        super().__init__(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x)


def test_replaced_buffers_stay_replaced():
    module = Replacing()
    train(engine(module), 3)
    assert int(module.calls) == 3


def test_empty_frozen_and_unused_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)
            self.frozen = nn.Linear(8, 8).requires_grad_(False)
            self.empty = nn.Parameter(torch.zeros(0))

        def forward(self, x):
            return self.frozen(torch.tanh(self.used(x)))

    for options in ({}, {"compute_dtype": torch.bfloat16}):
        pipeline = engine(Odd(), "ema-window", **options)
        unused = pipeline.stages[1].unused.weight.detach().clone()
        train(pipeline, 4, optimizer_of(pipeline, momentum=0.9, weight_decay=0.1))
        assert torch.equal(unused, pipeline.stages[1].unused.weight), "a gradient of None must stay None"
        assert pipeline.stages[1].frozen.weight.grad is None


def test_raw_updates_follow_each_group_and_only_known_parameters():
    pipeline = engine(nn.Linear(8, 8), "ema-window-raw", Delays.custom([1, 1, 0]))
    first, second, _ = pipeline.stages
    groups = [{"params": [first.weight], "lr": 0.1}, {"params": second.parameters(), "lr": 0.3}]
    train(pipeline, 3, torch.optim.SGD(groups, lr=0.2))
    for k, rate in ((0, 0.1), (1, 0.3)):
        stage = pipeline.delayed[k]
        weight = stage.layout.slots[0]
        torch.testing.assert_close(weight.view(stage.state["average"]), rate * weight.parameter.grad)
    bias = pipeline.delayed[0].layout.slots[1]
    assert not bias.view(pipeline.delayed[0].state["average"]).any()


def test_bf16_equals_an_explicit_cast():
    """Two stages without delay in bf16, against the same arithmetic written out."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), nn.Linear(8, 8)]
    twins = copy.deepcopy(layers)
    delays = Delays.none(2)
    pipeline = PipelineEngine(layers, delays, make_strategy("stash"), compute_dtype=torch.bfloat16)
    x, y = torch.randn(4, 8), torch.tensor([1, 2, 3, 4])
    loss, outputs = pipeline.train_step(x, y, F.cross_entropy, optimizer_of(pipeline))
    cast = [p.detach().bfloat16().requires_grad_() for layer in twins for p in layer.parameters()]
    expected = F.linear(F.linear(x.bfloat16(), cast[0], cast[1]), cast[2], cast[3]).float()
    F.cross_entropy(expected, y).backward()
    assert torch.equal(outputs, expected)
    assert outputs.dtype == loss.dtype == torch.float32
    trained = [p for layer in layers for p in layer.parameters()]
    assert all(torch.equal(p.grad, c.grad.float()) for p, c in zip(trained, cast, strict=True))


def test_in_bf16_frozen_weights_are_those_that_the_parameters_hold_now():
    middle = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False))
    pipeline = engine(middle, delays=Delays.none(3), compute_dtype=torch.bfloat16)
    x = torch.randn(4, 8)
    assert not torch.equal(*load(pipeline).forward(x)[:2])
    pipeline.end()
    with torch.no_grad():
        middle[1].weight.zero_()
    assert torch.equal(*load(pipeline).forward(x)[:2])


class Inner(nn.Module):
    """Differentiates within its forward pass, as networks of forces do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = self.layer(x).tanh().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return force


@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-window", "update-window"])
def test_a_derivative_within_the_forward_pass_uses_the_forward_passs_weights(strategy):
    pipeline = engine(Inner(), strategy)
    train(pipeline, 4)
    load(pipeline)
    x = torch.randn(4, 8)
    found = pipeline.stages[1](x)
    reference = copy.deepcopy(pipeline.stages[1])
    pipeline.end()
    assert not torch.equal(reference.layer.weight, pipeline.stages[1].layer.weight)
    torch.testing.assert_close(found, reference(x), rtol=0, atol=0)


def test_a_parameter_with_gaps_in_memory_is_refused():
    layer = nn.Linear(8, 8)
    layer.weight = nn.Parameter(torch.zeros(8, 16)[:, ::2])
    with pytest.raises(UserError, match=r"stage 1 has a parameter of shape \[8, 8\] .* not dense in memory"):
        engine(layer, "ema-window")
