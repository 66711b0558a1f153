"""What reasonable networks do inside a stage: it trains rightly, or it is refused in one line. Never silently wrong."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from layerpipe2 import Delays, UserError, make_history
from layerpipe2.engine.metrics import Totals
from layerpipe2.engine.step import PipelineEngine

MIDDLE = Delays.custom([2, 1, 0])


def engine(middle: nn.Module, strategy: str = "latest", delays=MIDDLE, **options) -> PipelineEngine:
    torch.manual_seed(3)
    return PipelineEngine([nn.Linear(8, 8), middle, nn.Linear(8, 8)], delays, make_history(strategy), **options)


def optimizer_of(pipeline: PipelineEngine, **options) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for s in pipeline.stages for p in s.parameters()], lr=0.1, **options)


def train(pipeline: PipelineEngine, steps: int = 1, optimizer=None) -> list[float]:
    optimizer = optimizer or optimizer_of(pipeline)
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(steps):
        x = torch.randn(4, 8, generator=generator)
        losses.append(float(pipeline.train_step(x, torch.tensor([1, 2, 3, 4]), F.cross_entropy, optimizer)[0]))
    return losses


class Weighted(nn.Module):
    """A linear layer whose weight some function makes from a trained one."""

    def __init__(self, make):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("mask", torch.rand(8, 8))
        self.make = make

    def forward(self, x):
        return F.linear(x, self.make(self.weight, self.mask))


MADE_WEIGHTS = {
    "mask": lambda w, m: w * m,
    "where": lambda w, m: torch.where(m > 0.5, w, torch.zeros_like(w)),
    "cat": lambda w, m: torch.cat([w[:4], m[:4]]),
    "noise": lambda w, m: w + 0.1 * torch.randn(8, 8),
    "constant": lambda w, m: w * torch.tensor(0.5),
    "experts": lambda w, m: w[torch.tensor([0, 1, 2, 3, 4, 5, 7, 6])],
    "cast": lambda w, m: w.double().float(),
    "standardized": lambda w, m: w - w.mean(1, keepdim=True),
}


@pytest.mark.parametrize("name", MADE_WEIGHTS)
def test_weights_made_from_weights_are_refused(name):
    with pytest.raises(UserError, match="stage 1 saves a tensor made from its weights"):
        train(engine(nn.Sequential(nn.Linear(8, 8), Weighted(MADE_WEIGHTS[name]))))


def test_spectral_norm_is_refused():
    with pytest.raises(UserError, match="stage 1 saves a tensor made from its weights"):
        train(engine(nn.Sequential(nn.Linear(8, 8), spectral_norm(nn.Linear(8, 8)))))


@pytest.mark.parametrize(
    "layer",
    [
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


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.act = lambda x: torch.relu(self.inner(x))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.act(x)


@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-window"])
def test_the_users_own_module_runs(strategy):
    module, seen = Closure(), []
    module.register_forward_hook(lambda *_: seen.append(1))
    pipeline = engine(module, strategy)
    before = module.inner.weight.detach().clone()
    train(pipeline, 3)
    assert module.calls == len(seen) == 3
    assert not torch.equal(before, module.inner.weight)
    assert isinstance(module.inner.weight, nn.Parameter)
    assert all(module.inner.weight is not leaf for leaf in pipeline.delayed[1].leaves.values())


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


def test_hidden_parameters_are_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))
            self.kept = [self.weight]

        def forward(self, x):
            return x @ self.kept[0]

    for strategy in ("stash", "latest"):
        with pytest.raises(UserError, match=r"stage 1 (uses a parameter of shape|saved none of its weights)"):
            train(engine(Hidden(), strategy))


def test_torchscript_is_refused():
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.script"):
        scripted = torch.jit.script(nn.Linear(8, 8))
    with pytest.raises(UserError, match="stage 1 holds a TorchScript module"):
        engine(scripted, "stash")


@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-window"])
def test_inplace_changes_of_saved_activations_are_errors(strategy):
    class Inplace(nn.Linear):
        def forward(self, x):
            y = torch.sigmoid(super().forward(x))
            y.mul_(2)
            return y

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        train(engine(Inplace(8, 8), strategy))


def test_freezing_while_training_is_refused():
    pipeline = engine(nn.Linear(8, 8))
    optimizer = optimizer_of(pipeline)
    train(pipeline, 2, optimizer)
    pipeline.stages[0].weight.requires_grad_(False)
    with pytest.raises(UserError, match="stage 0: a parameter was frozen or unfrozen while training"):
        train(pipeline, 1, optimizer)


def test_hooks_on_parameters_are_refused():
    module = nn.Linear(8, 8)
    module.weight.register_hook(lambda g: g * 0)
    with pytest.raises(UserError, match="stage 1 has a hook on a parameter"):
        train(engine(module, "stash"))


def test_complex_parameters_are_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))

    with pytest.raises(UserError, match=r"stage 1 has a parameter of type torch\.complex64"):
        engine(Complex())


def test_layers_that_change_their_weights_are_refused():
    stages = [nn.Embedding(5, 8, max_norm=0.1), nn.Linear(8, 8)]
    pipeline = PipelineEngine(stages, Delays.layerpipe2(2), make_history("latest"))
    optimizer = optimizer_of(pipeline)
    with pytest.raises(UserError, match="stage 0 changes its weights in its forward pass"):
        pipeline.train_step(torch.tensor([1, 2]), torch.tensor([1, 2]), F.cross_entropy, optimizer)


def test_a_stage_returns_one_tensor():
    with pytest.raises(UserError, match="stage 1 returns a tuple"):
        train(engine(nn.GRU(8, 8)))


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


@pytest.mark.parametrize("strategy", ["stash", "ema-window", "update-window"])
def test_a_refilled_pipeline_is_a_new_one(strategy):
    pipeline = engine(nn.Linear(8, 8), strategy)
    train(pipeline, 5)
    pipeline.refill()
    fresh = PipelineEngine(copy.deepcopy(pipeline.stages), MIDDLE, make_history(strategy))
    assert train(pipeline, 5) == train(fresh, 5)


def test_bf16_equals_an_explicit_cast():
    """Two stages without delay in bf16, against the same arithmetic written out."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), nn.Linear(8, 8)]
    twins = copy.deepcopy(layers)
    delays = Delays.none(2)
    pipeline = PipelineEngine(layers, delays, make_history("stash"), compute_dtype=torch.bfloat16)
    x, y = torch.randn(4, 8), torch.tensor([1, 2, 3, 4])
    loss, outputs = pipeline.train_step(x, y, F.cross_entropy, optimizer_of(pipeline))
    cast = [p.detach().bfloat16().requires_grad_() for layer in twins for p in layer.parameters()]
    expected = F.linear(F.linear(x.bfloat16(), cast[0], cast[1]), cast[2], cast[3]).float()
    F.cross_entropy(expected, y).backward()
    assert torch.equal(outputs, expected)
    assert outputs.dtype == loss.dtype == torch.float32
    trained = [p for layer in layers for p in layer.parameters()]
    assert all(torch.equal(p.grad, c.grad.float()) for p, c in zip(trained, cast, strict=True))


def test_epoch_means_weigh_batches_by_their_size():
    totals = Totals()
    totals.add(torch.tensor(1.0), torch.eye(3), torch.tensor([0, 1, 2]))
    totals.add(torch.tensor(5.0), torch.eye(3)[:1], torch.tensor([2]))
    assert {k: float(v) for k, v in totals.take_means().items()} == {"loss": 2.0, "accuracy": 0.75}
    assert totals.take_means() == {}
