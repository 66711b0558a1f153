"""The optimizers of the field: what they do with given gradients, and in a pipeline."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.field.joined import by_shape
from experiments.field.nesterov import LookAhead
from experiments.field.rotation import BasisRotation
from experiments.field.rows import OPTIMIZERS
from layerpipe2 import Delays, make_strategy
from layerpipe2.engine.step import PipelineEngine
from tests.reference import run_clocked


def gradients(parameters, steps=12):
    """The same for the same shapes."""
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(p.shape, generator=generator).to(p) for p in parameters] for _ in range(steps)]


def moved(optimizer, parameters, given):
    for step in given:
        for p, g in zip(parameters, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def matrices():
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((4, 4), (5, 5))]


def rotated_by_hand(w, given, lr=0.01, b=0.95, k=0.1, eps=1e-3, every=3):
    """Adam in the basis of the eigenvectors of EMA[G G'] and EMA[G' G], which a power step renews."""
    m, n = w.shape
    left, right = torch.zeros(m, m).to(w), torch.zeros(n, n).to(w)
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(given, start=1):
        left, right = b * left + (1 - b) * g @ g.T, b * right + (1 - b) * g.T @ g
        if t == 1:
            u, v = (torch.linalg.eigh(factor)[1].flip(1) for factor in (left, right))
        elif t % every == 0:
            rows, columns = (torch.diag(x.T @ f @ x).argsort(descending=True) for x, f in ((u, left), (v, right)))
            square = square[rows][:, columns]
            u, v = torch.linalg.qr(left @ u[:, rows])[0], torch.linalg.qr(right @ v[:, columns])[0]
        mean = b * mean + (1 - b) * g
        square = b * square + (1 - b) * (u.T @ g @ v) ** 2
        step = (u.T @ mean @ v) / (1 - b**t) / ((square / (1 - b**t)).sqrt() + eps)
        w = w - lr * k * w - lr * u @ step @ v.T
    return w


def test_basis_rotation_is_what_its_equations_say():
    """Of square matrices: the first gradient of others leaves a part of the basis to rounding.

    The eps is large: in that basis the first gradient is diagonal, and a small one scales the rounding beside it.
    """
    own = matrices()
    given = gradients(own, steps=12)
    expected = [rotated_by_hand(p.detach(), [step[i] for step in given]) for i, p in enumerate(own)]
    found = moved(BasisRotation(own, 0.01, eps=1e-3, weight_decay=0.1, every=3), own, given)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_basis_rotation_in_a_pipeline():
    """Without ReLU and with a large eps: in a direction without a gradient, which the basis may take, is rounding."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(4, size)).double() for size in (4, 4, 4, 5)]
    batches = [(torch.randn(64, 4, dtype=torch.float64), torch.randint(5, (64,))) for _ in range(24)]
    twins = copy.deepcopy(stages)

    def make(parameters):
        adam = lambda own: torch.optim.AdamW(own, 0.003)  # noqa: E731
        return by_shape(parameters, lambda own: BasisRotation(own, 0.003, eps=1e-3), adam)

    how = {"convention": "layerpipe2", "make_optimizer": make, "lr_of": lambda t: 0.003}
    expected = run_clocked(twins, batches, strategy="stash", **how)
    engine = PipelineEngine(stages, Delays.layerpipe2(4), make_strategy("rotation"))
    optimizer = make([p for stage in stages for p in stage.parameters()])
    losses = [float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]) for x, y in batches]
    assert losses == pytest.approx(expected, abs=1e-12)
    for mine, theirs in zip(nn.ModuleList(stages).parameters(), nn.ModuleList(twins).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_look_ahead_at_a_constant_rate_is_torchs_nesterov():
    mine, theirs = matrices(), matrices()
    given = gradients(mine)
    found = moved(LookAhead(mine, 0.5, 0.9, weight_decay=0.1), mine, given)
    expected = moved(torch.optim.SGD(theirs, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1), theirs, given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()


def test_muon_has_the_matrices_and_adamw_the_rest():
    mine, theirs = network(), network()
    own, other = list(mine.parameters()), list(theirs.parameters())
    given = gradients(own)
    moved(OPTIMIZERS["muon"](own, lr=0.01, weight_decay=0.1), own, given)
    common = {"lr": 0.01, "weight_decay": 0.1}
    for kind in (True, False):
        part = [p for p in other if (p.ndim == 2) == kind]
        make = torch.optim.AdamW(part, **common)
        if kind:
            make = torch.optim.Muon(part, momentum=0.95, adjust_lr_fn="match_rms_adamw", **common)
        moved(make, part, [[g for g, p in zip(step, other, strict=True) if (p.ndim == 2) == kind] for step in given])
    assert all(map(torch.equal, own, other))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "nadam"])  # torch's has a factor in float32
def test_its_state_is_taken_up_from_a_checkpoint(name):
    whole, part = network(), network()
    own, other = list(whole.parameters()), list(part.parameters())
    given = gradients(own)
    moved(OPTIMIZERS[name](own, lr=0.01), own, given)
    first = OPTIMIZERS[name](other, lr=0.01)
    moved(first, other, given[:5])
    second = OPTIMIZERS[name](other, lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    moved(second, other, given[5:])
    assert all(map(torch.equal, own, other))
