"""Activations that are computed again: less memory, the same training, or one line that says why not."""

import numpy as np
import pytest
import torch
from torch import nn

from layerpipe2 import UserError
from layerpipe2.pipeline.snapshots import StageSnapshots
from tests.pipeline.fits import assert_same_weights, stage_alone

DELAY = 2


def local_stage(*layers, strategy="stash", **options):
    stage = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    return stage_alone(stage, 1, DELAY, strategy, optimizer, **options)


def train(local, between=lambda batch: None, loss=None):
    """Five mini-batches, a hook after each update; the gradients of the inputs."""
    snapshots, generator = StageSnapshots(local, resumable=False), torch.Generator().manual_seed(1)
    found = []
    for batch in range(5 + DELAY):
        snapshots.take(batch)
        local.forward(torch.randn(4, 8, generator=generator), loss)
        if batch < DELAY:
            continue
        if local.must_recompute:
            with snapshots.before(batch - DELAY):
                local.recompute()
        found.append(local.backward(torch.ones(4, 8) if loss is None else None))
        local.finish_backward()
        snapshots.keep_version(batch - DELAY, 100)
        local.update()
        between(batch - DELAY)
    return found


class Counting(nn.Module):
    """Reads a buffer that it writes, in a network with a hidden layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count.add_(1)
        return self.linear(x.tanh()) * self.count.item()


@pytest.mark.parametrize("loss", [None, lambda y: y.square().sum()], ids=["gradient comes back", "loss in flight"])
def test_a_pass_that_depends_on_buffers_is_the_same_again(loss):
    made = []
    for again in (False, True):
        torch.manual_seed(0)
        local = local_stage(Counting(), nn.BatchNorm1d(8), nn.Dropout(), nn.Sigmoid(), recompute_activations=again)
        gradients, stage = train(local, loss=loss), local.stage
        made.append((gradients, stage.module.state_dict(), stage.stream.state_dict(), local.peak_bytes))
    (plain, weights, stream, most), (again, *state, least) = made
    assert all(map(torch.equal, plain, again))
    assert_same_weights(state[0], weights)
    assert all(map(torch.equal, stream, state[1]))
    # The loss runs once, so the stage that has it keeps all of its activations.
    assert most == ((DELAY + 1) * (least - DELAY * 4 * 8 * 4) if loss is None else least)


def test_what_keeps_no_more_than_its_input_is_not_computed_again():
    local = local_stage(nn.Linear(8, 8), recompute_activations=True)
    local.forward(torch.zeros(4, 8))
    assert not local.must_recompute


class Failing(nn.Module):
    """Fails when mini-batch 1 comes back: passes 0 to 2, 0 again, 3, 1 again."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        if self.passes == 6:
            raise ZeroDivisionError("in the forward pass")
        return x


def test_an_error_while_computing_again_leaves_the_latest_weights():
    local = local_stage(*tail(), Failing(), recompute_activations=True)
    seen = []
    with pytest.raises(ZeroDivisionError):
        train(local, lambda batch: seen.append({k: v.clone() for k, v in local.stage.module.state_dict().items()}))
    assert len(seen) == 1
    assert_same_weights(local.stage.module.state_dict(), seen[0])


class Own(nn.Module):
    """Draws random numbers that no stream knows."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, x):
        return x * self.generator.random()


def tail():
    return nn.Linear(8, 8), nn.Tanh(), nn.Tanh()


def drop_more(dropout):
    dropout.p = 0.5


@pytest.mark.parametrize(
    ("layers", "change", "message"),
    [
        ([nn.Hardtanh(inplace=True), *tail()], None, "stage 1 changes its input in place .*train without recompute_ac"),
        ([*tail(), Own()], None, "stage 1 computed other outputs when its forward pass ran again"),
        ([*tail(), nn.Dropout(0.2)], drop_more, "a callback that changes how it comp"),
    ],
    ids=["in place", "own random numbers", "callback"],
)
def test_a_pass_that_is_not_the_same_again_is_refused(layers, change, message):
    local = local_stage(*layers, recompute_activations=True)
    with pytest.raises(UserError, match=message):
        train(local, lambda batch: change(layers[-1]) if change is not None and batch == 1 else None)


@pytest.mark.parametrize("strategy", ["latest", "ema-window", "update-window"])
def test_weights_that_are_not_those_of_the_forward_pass_are_refused(strategy):
    message = f"with the same weights, which strategy '{strategy}' doesn't keep .*; give strategy 'stash'"
    with pytest.raises(UserError, match=message):
        local_stage(*tail(), strategy=strategy, recompute_activations=True)
