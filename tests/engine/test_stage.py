"""A stage's weights over time: wherever they are kept, a training is the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, UserError
from layerpipe2.engine import in_place, weights
from tests.engine.training import engine, load, optimizer_of, train

PLACES = {
    "small stages, in place": (in_place, "SMALL", in_place.SMALL),
    "large stages, exchanged": (in_place, "SMALL", 0),
    "a device with a counter of its own, as for CUDA graphs": (weights, "HOSTS", ()),
}
CASES = [
    *((name, 1) for name in ("stash", "latest", "ema-span", "ema-lsq-raw", "pair", "update-window")),
    *((name, 2) for name in ("stash", "latest", "ema-span")),
]


@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("strategy", "accumulate"), CASES)
def test_wherever_weights_are_kept_training_is_the_same(strategy, accumulate, compute_dtype):
    """The last stage has a delay, and the loss reads its weights: those of its forward pass."""
    found = []
    for place in PLACES.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*place)
            found.append(trained(strategy, accumulate, compute_dtype))
    (losses, states), *others = found
    for other_losses, other_states in others:
        assert other_losses == losses
        for mine, theirs in zip(states, other_states, strict=True):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def trained(strategy, accumulate, compute_dtype):
    torch.manual_seed(0)
    middle = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8))
    how = {"accumulate": accumulate, "compute_dtype": compute_dtype}
    pipeline = engine(middle, strategy, Delays.custom([5, 3, 2]), **how)
    last, optimizer, losses = pipeline.stages[-1], optimizer_of(pipeline), []
    for t in range(12):
        if t == 6:
            pipeline.audit_next()
        x, y = torch.randn(4, 8, generator=torch.Generator().manual_seed(t)), torch.tensor([1, 2, 3, 4])
        loss = lambda y, target: F.cross_entropy(y, target) + last.weight.float().square().sum()  # noqa: E731
        losses.append(float(pipeline.train_step(x, y, loss, optimizer)[0]))
    return losses, [{"line": one.line, **one.own_state()} for one in pipeline.delayed.values()]


def test_a_graph_of_an_earlier_step_is_not_run_back_with_other_weights():
    pipeline = engine(nn.Linear(8, 8), "stash", Delays.custom([2, 2, 2]))
    train(pipeline)
    outputs = load(pipeline).forward(torch.randn(4, 8))
    pipeline.end()
    train(pipeline)
    with pytest.raises(UserError, match="modified by an inplace operation"):
        outputs.sum().backward()
