"""What could get past the exchange of weights or past the delay line, found by attacking it: refused, or right."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from layerpipe2 import Delays, UserError, make_history
from layerpipe2.engine.step import PipelineEngine
from tests.engine.test_limits import Weighted, engine, optimizer_of, train

CHANGES = "stage 1 changes its weights in its forward pass"
MADE = "stage 1 saves a tensor made from its weights"
STRATEGIES = ["stash", "latest", "ema-window", "update-window"]


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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_derivative_within_the_forward_pass_uses_the_forward_passs_weights(strategy):
    pipeline = engine(Inner(), strategy)
    train(pipeline, 4)
    stage = pipeline.delayed[1]
    for delayed in pipeline.delayed.values():
        delayed.load(pipeline.step_count)
    x = torch.randn(4, 8)
    found = stage(x)
    reference = Inner()
    with torch.no_grad():
        for p, leaf in zip(reference.parameters(), stage.leaves.values(), strict=True):
            p.copy_(leaf)
    assert not torch.equal(reference.layer.weight, pipeline.stages[1].layer.weight)
    torch.testing.assert_close(found, reference(x), rtol=0, atol=0)


class Recomputing(nn.Linear):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("how", ["data", "assigned", "no_grad"])
def test_weights_changed_in_the_forward_pass_are_refused(how, strategy):
    with pytest.raises(UserError, match=f"{CHANGES}|{MADE}"):
        train(engine(nn.Sequential(nn.Linear(8, 8), Masking(how)), strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_recomputed_activations_are_refused_for_exact_stashing_too(strategy):
    with pytest.raises(UserError, match="activation checkpointing or offloading"):
        train(engine(nn.Sequential(nn.Linear(8, 8), Recomputing(8, 8)), strategy))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        spectrum = torch.complex(x[:, :4], x[:, 4:])
        filtered = spectrum * torch.view_as_complex(self.weight)
        return torch.cat([filtered.real, filtered.imag], 1)


def test_complex_views_of_weights_are_refused():
    with pytest.raises(UserError, match=r"stage 1 views its weights as torch\.complex64"):
        train(engine(Complex()))
    train(engine(Complex(), "stash"))


ESCAPES = {
    "new_zeros": lambda w, x: torch.cat([w[:4], x.new_zeros(4, 8)]),
    "ones_like": lambda w, x: w * torch.ones_like(x[:1]),
    "filled": lambda w, x: x.new_empty(8, 8).copy_(w),
    "merged": lambda w, x: torch.addmm(torch.ones(8, 8), w, w),
}


class WithBatch(Weighted):
    def forward(self, x):
        return F.linear(x, self.make(self.weight, x))


@pytest.mark.parametrize("name", ESCAPES)
def test_weights_made_with_the_batchs_shape_or_by_products_are_refused(name):
    with pytest.raises(UserError, match=MADE):
        train(engine(nn.Sequential(nn.Linear(8, 8), WithBatch(ESCAPES[name]))))


def test_sparse_copies_are_refused():
    class Sparse(Weighted):
        def forward(self, x):
            return torch.sparse.mm(self.weight.to_sparse(), x.T).T

    with pytest.raises(UserError, match="stage 1 makes a sparse copy of its weights"):
        train(engine(nn.Sequential(nn.Linear(8, 8), Sparse(None))))


class _Copying(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.transposed = weight.t().contiguous()
        return x @ ctx.transposed

    @staticmethod
    def backward(ctx, gy):
        return gy @ ctx.transposed.t(), None


def test_functions_that_keep_copies_are_refused():
    class Keeping(nn.Linear):
        def forward(self, x):
            return _Copying.apply(x, self.weight)

    with pytest.raises(UserError, match="_CopyingBackward keeps weights where recalled ones can't reach them"):
        train(engine(nn.Sequential(nn.Linear(8, 8), Keeping(8, 8))))


@pytest.mark.parametrize("strategy", STRATEGIES)
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
