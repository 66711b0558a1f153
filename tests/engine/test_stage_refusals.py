"""Stages whose backward pass recalled weights could not reach, found by attacking the exchange: refused in one line."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from layerpipe2 import Delays, UserError, make_history
from layerpipe2.engine.step import PipelineEngine
from tests.engine.training import engine, optimizer_of, train

ALL = ("stash", "latest", "ema-window", "update-window")
MADE = "stage 1 saves a tensor made from its weights"
CHANGED = f"stage 1 changes its weights in its forward pass|{MADE}"
CHECKPOINTED = "activation checkpointing or offloading"
RECOMPUTED = "no activation checkpointing"
KEEPS = "keeps weights where recalled ones can't reach them"


class Weighted(nn.Module):
    """A linear layer whose weight some function makes from a trained one, a mask and the batch."""

    def __init__(self, make):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("mask", torch.rand(8, 8))
        self.make = make

    def forward(self, x):
        return F.linear(x, self.make(self.weight, self.mask, x))


MADE_WEIGHTS = {
    "mask": lambda w, m, x: w * m,
    "where": lambda w, m, x: torch.where(m > 0.5, w, torch.zeros_like(w)),
    "cat": lambda w, m, x: torch.cat([w[:4], m[:4]]),
    "noise": lambda w, m, x: w + 0.1 * torch.randn(8, 8),
    "constant": lambda w, m, x: w * torch.tensor(0.5),
    "experts": lambda w, m, x: w[torch.tensor([0, 1, 2, 3, 4, 5, 7, 6])],
    "cast": lambda w, m, x: w.double().float(),
    "standardized": lambda w, m, x: w - w.mean(1, keepdim=True),
    "new_zeros": lambda w, m, x: torch.cat([w[:4], x.new_zeros(4, 8)]),
    "ones_like": lambda w, m, x: w * torch.ones_like(x[:1]),
    "filled": lambda w, m, x: x.new_empty(8, 8).copy_(w),
    "merged": lambda w, m, x: torch.addmm(torch.ones(8, 8), w, w),
}


class Masking(nn.Linear):
    def __init__(self, how):
        super().__init__(8, 8)
        self.register_buffer("mask", (torch.rand(8, 8) > 0.3).float())
        self.how = how

    def forward(self, x):
        if self.how == "data":
            self.weight.data.mul_(self.mask)
        elif self.how == "assigned":
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.5)
        else:
            with torch.no_grad():
                self.weight.mul_(self.mask)
        return super().forward(x)


class Checkpointed(nn.Linear):
    reentrant = False

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)


class ReentrantlyCheckpointed(Checkpointed):
    reentrant = True


class Offloaded(nn.Linear):
    def forward(self, x):
        with torch.autograd.graph.save_on_cpu():
            return super().forward(x)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        spectrum = torch.complex(x[:, :4], x[:, 4:])
        filtered = spectrum * torch.view_as_complex(self.weight)
        return torch.cat([filtered.real, filtered.imag], 1)


class Sparse(nn.Linear):
    def forward(self, x):
        return torch.sparse.mm(self.weight.to_sparse(), x.T).T


class _Keeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x @ weight.T

    @staticmethod
    def backward(ctx, gy):
        return gy @ ctx.weight, None


class _Copying(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.transposed = weight.t().contiguous()
        return x @ ctx.transposed

    @staticmethod
    def backward(ctx, gy):
        return gy @ ctx.transposed.t(), None


class ByFunction(nn.Linear):
    def __init__(self, function):
        super().__init__(8, 8)
        self.function = function

    def forward(self, x):
        return self.function.apply(x, self.weight)


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.kept = [self.weight]

    def forward(self, x):
        return x @ self.kept[0]


class Inplace(nn.Linear):
    def forward(self, x):
        y = torch.sigmoid(super().forward(x))
        y.mul_(2)
        return y


def hooked():
    module = nn.Linear(8, 8)
    module.weight.register_hook(lambda g: g * 0)
    return module


def behind(*layer):
    """The layer behind another one of its stage, so that its input needs a gradient in any case."""
    return nn.Sequential(nn.Linear(8, 8), *layer)


REFUSED = {
    **{name: (lambda make=make: behind(Weighted(make)), ["latest"], MADE) for name, make in MADE_WEIGHTS.items()},
    "spectral norm": (lambda: behind(spectral_norm(nn.Linear(8, 8))), ["latest"], MADE),
    "weight norm": (lambda: weight_norm(nn.Linear(8, 8)), ["latest"], MADE),
    "data changed": (lambda: behind(Masking("data")), ALL, CHANGED),
    "data assigned": (lambda: behind(Masking("assigned")), ALL, CHANGED),
    "changed without gradient": (lambda: behind(Masking("no_grad")), ALL, CHANGED),
    "checkpointed": (lambda: behind(Checkpointed(8, 8)), ALL, CHECKPOINTED),
    "offloaded": (lambda: behind(Offloaded(8, 8)), ["latest"], CHECKPOINTED),
    "reentrant": (lambda: behind(ReentrantlyCheckpointed(8, 8)), ["latest"], RECOMPUTED),
    "complex view": (Complex, ["latest"], r"stage 1 views its weights as torch\.complex64"),
    "sparse": (lambda: behind(Sparse(8, 8)), ["latest"], "stage 1 makes a sparse copy of its weights"),
    "kept": (
        lambda: behind(ByFunction(_Keeping)),
        ["latest"],
        f"_KeepingBackward {KEEPS}",
    ),
    "copied": (
        lambda: behind(ByFunction(_Copying)),
        ["latest"],
        f"_CopyingBackward {KEEPS}",
    ),
    "hidden": (Hidden, ["stash", "latest"], r"stage 1 (uses a parameter of shape|saved none of its weights)"),
    "hook": (hooked, ["stash"], "stage 1 has a hook on a parameter"),
    "tuple": (lambda: nn.GRU(8, 8), ["latest"], "stage 1 returns a tuple"),
}


@pytest.mark.parametrize(("name", "strategy"), [(name, one) for name, (_, some, _) in REFUSED.items() for one in some])
def test_refused(name, strategy):
    make, _, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        train(engine(make(), strategy))


@pytest.mark.parametrize(
    ("layer", "message"),
    [(Checkpointed, CHECKPOINTED), (Offloaded, CHECKPOINTED), (ReentrantlyCheckpointed, RECOMPUTED)],
)
def test_recomputed_and_offloaded_activations_are_refused_in_the_first_stage(layer, message):
    pipeline = PipelineEngine([layer(8, 8), nn.Linear(8, 8)], Delays.layerpipe2(2), make_history("latest"))
    pipeline.delayed[0].load(pipeline.step_count)
    with pytest.raises(UserError, match=message):
        pipeline.forward(torch.randn(4, 8, requires_grad=True))


def test_exact_stashing_exchanges_nothing():
    train(engine(Complex(), "stash"))


@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-window"])
def test_inplace_changes_of_saved_activations_are_errors(strategy):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        train(engine(Inplace(8, 8), strategy))


@pytest.mark.parametrize("strategy", ALL)
def test_weights_changed_between_updates_are_refused(strategy):
    pipeline = engine(nn.Linear(8, 8), strategy)
    optimizer = optimizer_of(pipeline)
    train(pipeline, 2, optimizer)
    weight = pipeline.stages[1].weight
    with torch.no_grad():
        weight.mul_(1.0)  # nothing changes
    train(pipeline, 1, optimizer)
    with torch.no_grad():
        weight.clamp_(-0.01, 0.01)
    with pytest.raises(UserError, match="stage 1: weights were changed between two updates"):
        train(pipeline, 1, optimizer)
    pipeline.refill()
    train(pipeline, 1, optimizer)


def test_frozen_parameters_that_low_precision_would_lose():
    class Target(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.target = nn.Parameter(torch.zeros(8), requires_grad=False)

        def forward(self, x):
            with torch.no_grad():
                self.target.add_(1.0)
            return super().forward(x) + self.target

    train(engine(Target()))
    with pytest.raises(UserError, match="stage 1 changes a frozen parameter in its forward pass"):
        train(engine(Target(), compute_dtype=torch.bfloat16))


def test_one_buffer_in_two_stages_is_refused():
    norm = nn.BatchNorm1d(8, affine=False)
    stages = [nn.Sequential(nn.Linear(8, 8), norm), nn.Sequential(nn.Linear(8, 8), norm)]
    with pytest.raises(UserError, match=r"buffer '1\.running_mean' of stage 1 is also '1\.running_mean' of stage 0"):
        PipelineEngine(stages, Delays.layerpipe2(2), make_history("stash"))


def test_torchscript_is_refused():
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.script"):
        scripted = torch.jit.script(nn.Linear(8, 8))
    with pytest.raises(UserError, match="stage 1 holds a TorchScript module"):
        engine(scripted, "stash")


def test_freezing_while_training_is_refused():
    pipeline = engine(nn.Linear(8, 8))
    optimizer = optimizer_of(pipeline)
    train(pipeline, 2, optimizer)
    pipeline.stages[0].weight.requires_grad_(False)
    with pytest.raises(UserError, match="stage 0: a parameter was frozen or unfrozen while training"):
        train(pipeline, 1, optimizer)


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


def test_autocast_is_refused(device):
    pipeline = PipelineEngine(
        [nn.Linear(8, 8).to(device), nn.Linear(8, 8).to(device)], Delays.custom([0, 1]), make_history("latest")
    )
    pipeline.delayed[1].load(pipeline.step_count)
    with torch.autocast(device, torch.bfloat16), pytest.raises(UserError, match=MADE):
        pipeline.forward(torch.randn(4, 8, device=device))
