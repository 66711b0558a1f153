"""The largest curvature is that of the explicit Hessian, and what can't be measured says so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from experiments.predicting.curvature import NotMeasured, descent_of, hessian_product, largest_eigenpair
from experiments.predicting.measure import Measurement, along
from layerpipe2.delays import Delays
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.theory.stability import largest_stable_shared_step, largest_stable_step
from tests.advice import advised


def network():
    torch.manual_seed(1)
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    return [stage.double() for stage in (norm, nn.Sequential(nn.Linear(4, 2)))]


X, Y = torch.randn(9, 3, generator=torch.Generator().manual_seed(2)).double(), torch.tensor([0, 1, 1] * 3)


def explicit_hessian(stages):
    net = nn.Sequential(*stages)
    names, shapes = zip(*((n, p.shape) for n, p in net.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]

    def value(flat):
        weights = {n: part.view(s) for n, part, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, weights, (X,)), Y)

    return torch.autograd.functional.hessian(value, nn.utils.parameters_to_vector(net.parameters()).detach())


@pytest.mark.parametrize("scaled", [False, True])
def test_the_largest_eigenvalue_and_its_shares_are_those_of_the_explicit_hessian(scaled):
    hessian, stages = explicit_hessian(network()), network()
    parameters = [p for stage in stages for p in stage.parameters()]
    scales = [torch.rand_like(p) + 0.5 for p in parameters] if scaled else None
    if scaled:
        d = torch.cat([part.flatten() for part in scales])
        hessian = d[:, None] * hessian * d
    values, vectors = torch.linalg.eigh(hessian)
    assert values[0] < -1e-3  # indefinite: the largest one is asked for, of either sign
    product, sizes = hessian_product(stages, X, Y, F.cross_entropy, scales)
    assert sizes == [24, 10]
    found, vector = largest_eigenpair(product, 34, like=parameters[0], products=34)
    assert found == pytest.approx(float(values[-1]), rel=1e-9)
    assert abs(float(vector @ vectors[:, -1])) == pytest.approx(1, rel=1e-9)


def test_the_smallest_may_be_larger_in_modulus():
    matrix = torch.diag(torch.tensor([-9.0, 1.0, 2.0, 0.0], dtype=torch.float64))
    found, vector = largest_eigenpair(lambda v: matrix @ v, 4, like=matrix)
    assert found == pytest.approx(2, rel=1e-12)
    assert vector.abs().tolist() == pytest.approx([0, 0, 1, 0], abs=1e-7)
    assert largest_eigenpair(lambda v: 3 * v, 4, like=matrix)[0] == pytest.approx(3)
    assert not largest_eigenpair(lambda v: v * torch.nan, 4, like=matrix)[0] > 0


def pipeline(optimizer, stages=None):
    return PipelinedModule(stages or network(), Delays.custom([2, 0]), "stash", optimizer=optimizer)


def signs_of(optimizer, stages=None):
    loader = DataLoader([(X, Y)], batch_size=None)
    return along(pipeline(optimizer, stages), loader, Measurement(["latest"], steps=1))


@advised
def test_sgd_is_held_against_the_bound_of_its_momentum():
    found = signs_of(lambda p: torch.optim.SGD(p, 1e-9, momentum=0.5, nesterov=True)).stability
    values, vectors = torch.linalg.eigh(explicit_hessian(network()))
    shares = [float(part.square().sum()) for part in vectors[:, -1].split([24, 10])]
    assert found.curvature == pytest.approx(float(values[-1]), rel=1e-3)
    assert found.step == pytest.approx(1e-9 * found.curvature)
    assert found.bound == largest_stable_step(2, 0.5, nesterov=True)
    assert found.shares == pytest.approx(shares, abs=0.02)
    assert found.shared_bound == pytest.approx(largest_stable_shared_step(found.shares, [2, 0], 0.5, True))


def test_adam_is_preconditioned_by_its_second_moments_and_dampening_lowers_the_rate_of_momentum_only():
    parameters = [p for stage in network() for p in stage.parameters()]
    assert descent_of(torch.optim.SGD(parameters, 0.1, momentum=0.9, dampening=0.5), parameters).rate == 0.05
    assert descent_of(torch.optim.SGD(parameters, 0.1), parameters).rate == 0.1
    with pytest.raises(NotMeasured, match="never had a gradient"):
        descent_of(torch.optim.Adam(parameters), parameters)
    optimizer = torch.optim.AdamW(parameters, lr=0.1, betas=(0.8, 0.9), eps=1e-3)
    for p in parameters:
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    descent = descent_of(optimizer, parameters)
    assert (descent.rate, descent.momentum, descent.nesterov) == (pytest.approx(0.02), 0.8, False)
    assert all(torch.allclose(s, torch.full_like(s, (3 + 1e-3) ** -0.5)) for s in descent.scales)


def two_rates(parameters):
    first, *rest = parameters
    return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest}], 0.01)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


class OnceDifferentiable(nn.Module):
    def forward(self, x):
        return Once.apply(x)


REFUSED = {
    "knows SGD and Adam, not RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "groups of parameters have different rates": two_rates,
    "no maximize or amsgrad": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "differentiate twice": lambda p: torch.optim.SGD(p, 1e-3),  # of a network with a layer that has no second one
}


@advised
@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_theory_does_not_know_is_measured_without_its_stability(reason):
    first, last = network()
    stages = [nn.Sequential(first, OnceDifferentiable()), last] if "twice" in reason else [first, last]
    signs = signs_of(REFUSED[reason], stages)
    assert signs.stability is None
    assert reason in signs.not_measured
    assert signs.total.strategies["latest"].alignment is not None
