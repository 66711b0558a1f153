"""Buffers that an evaluation changes stay so, as in one process; where mini-batches went ahead without, refused."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes
from tests.pipeline.fits import assert_all_equal, dense, fit, pipelined
from tests.sampling import sampled


class Counts(nn.Module):
    """``kind`` says when it counts, and whether that makes a difference."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        if self.kind == "always" or (self.kind != "scratch" and not self.training):
            self.count += 1
        if self.kind == "scratch":
            self.last = x.detach().flatten()[:3].clone()
        return x * (1 + 0.1 * self.count) if self.kind == "scales" else x


def module(kind, stage=0, **options):
    stages = dense()
    stages[stage] = nn.Sequential(stages[stage], Counts(kind))
    return pipelined(stages, **options)


def one_validation():
    return [EarlyStopping("val_loss", stopping_threshold=1e9)]


def test_they_stay_as_in_one_process():
    rows = {
        "only then": fit(partial(module, "counts"), val_check_interval=2),
        "written anew": fit(partial(module, "scratch"), val_check_interval=2),
        "no delay": fit(partial(module, "scales", stage=2)),
        "an empty pipeline": fit(partial(module, "scales", drain=True)),
        "training ends": fit(partial(module, "always"), one_validation),
    }
    assert_all_equal(rows, 2)


class Centred(nn.Module):
    """A loss that follows the mean outputs, while it trains or ``always``."""

    def __init__(self, *, always):
        super().__init__()
        self.always = always
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, outputs, targets):
        value = F.cross_entropy(outputs - self.centre, targets)
        if self.training or self.always:
            self.centre += 0.1 * (outputs.detach().mean(0) - self.centre)
        return value


def follows(strategy=None, always=False, delays=(5, 3, 1), **options):
    make = partial(pipelined, dense(), loss=Centred(always=always), delays=delays)
    rows, module = fit(make, **options)(strategy)
    return rows, module.stages  # every process has the loss


def test_those_of_a_loss_are_as_in_one_process():
    rows = {
        "epochs": follows,
        "in between": partial(follows, val_check_interval=2),
        "an early end": partial(follows, max_steps=7),
        "no delay": partial(follows, always=True, delays=(4, 2, 0)),
    }
    assert_all_equal(rows, 2)


LOSS = "stage 2: an evaluation has changed buffer 'loss: centre', and the mini-batches already"
LAYER = "stage 0: an evaluation has changed buffer '1.count', and the mini-batches already"
REFUSED = [
    *((partial(module, kind, strategy="stash"), {}, LAYER) for kind in ("scales", "always")),
    (partial(module, "scales", strategy="stash"), {"split_backward": True}, LAYER),
    (partial(module, "always", strategy="stash"), {"recompute_activations": True}, LAYER),
    (partial(pipelined, dense(), loss=Centred(always=True), delays=(5, 3, 1)), {}, LOSS),
]


@pytest.mark.parametrize(("make", "options", "message"), sampled(REFUSED, [*REFUSED[:2], REFUSED[-1]]))
def test_a_difference_to_mini_batches_under_way_is_refused(make, options, message, tmp_path):
    found = processes.ends(lambda: fit(make)(PipelineStrategy(timeout_s=20, **options)), 2, tmp_path)
    assert [code for code, _ in found] == [2, 2]
    assert message in "".join(said for _, said in found)
