"""Buffers and frozen parameters that change while mini-batches are under way: as in one process, or refused."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BaseFinetuning, EarlyStopping
from torch import nn

from layerpipe2.pipeline.snapshots import StageSnapshots
from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes
from tests.pipeline.fits import (
    assert_all_equal,
    assert_equal,
    dense,
    fit,
    noise,
    pipelined,
    stage_alone,
    trainer,
)
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
    assert message in found[int(message == LOSS)][1]


class Plan(pl.Callback):
    """Freezes the stages ``frozen(epoch, batch)``."""

    def __init__(self, frozen):
        self.frozen = frozen

    def setup(self, trainer, pl_module, stage):
        self.freeze(pl_module, 0, 0)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.freeze(pl_module, trainer.current_epoch, batch_idx)

    def freeze(self, module, epoch, batch):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(int(name.split(".")[1]) not in self.frozen(epoch, batch))


class Unfreeze(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        pl_module.stages[0].requires_grad_(False)
        pl_module.stages[1].requires_grad_(False)

    def finetune_function(self, pl_module, epoch, optimizer):
        for name, parameter in pl_module.named_parameters():
            parameter.requires_grad_(int(name.split(".")[1]) >= 2 - epoch)


PLANS = {
    "a stage from the start": lambda epoch, batch: [0] if epoch < 1 else [],
    "in the middle of an epoch": lambda epoch, batch: [1] if epoch == 1 and batch >= 2 else [],
    "again and again": lambda epoch, batch: [0, 1] if batch % 2 else [],
    "all but the last": lambda epoch, batch: [0, 1] if epoch < 2 else [],
}


def planned(plan, strategy="ema-window", **options):
    return fit(lambda: pipelined(dense(), strategy, **options), lambda: [Plan(plan)])


def some_are(epoch, batch):
    return [1] if epoch == 1 else []


@pytest.mark.parametrize("options", sampled([{}, {"split_backward": True}], [{"split_backward": True}]))
def test_frozen_at_any_time(options):
    rows = {name: (planned(plan, unfreezes=True), options) for name, plan in PLANS.items()}
    again = planned(PLANS["again and again"], "stash", unfreezes=True), options | {"recompute_activations": True}
    halved = fit(lambda: _partly_frozen(drain=True), lambda: [_Halve(counted=False)])  # with an empty pipeline
    assert_all_equal(rows | {"computed again": again, "unannounced": planned(some_are), "halved": halved}, 2)


@pytest.mark.parametrize("strategy", sampled(["stash", "latest", "pair"], ["latest"]))
def test_fine_tuning(strategy):
    assert_equal(fit(lambda: pipelined(dense(), strategy), lambda: [Unfreeze()]), 3)


def unannounced():
    plan = Plan(PLANS["a stage from the start"])
    trainer(PipelineStrategy(timeout_s=20), [plan]).fit(pipelined(dense()), noise(), noise())


class _Halve(pl.Callback):
    """Halves a frozen weight of the first stage before the second epoch, in a way that autograd counts or not."""

    def __init__(self, counted):
        self.counted = counted

    @torch.no_grad()
    def on_train_epoch_start(self, trainer, pl_module):
        for name, weight in pl_module.named_parameters():
            if name == "stages.0.0.weight" and trainer.current_epoch == 1:
                (weight if self.counted else weight.data).mul_(0.5)


def halves_what_is_frozen(counted):
    trainer(PipelineStrategy(timeout_s=20), [_Halve(counted)]).fit(_partly_frozen(), noise(), noise())


def _partly_frozen(**options):
    module = pipelined(dense(), "stash", **options)
    module.stages[0][0].weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (unannounced, "stage 0: a parameter that was frozen when training began was unfrozen"),
        *((partial(halves_what_is_frozen, counted), "stage 0: a frozen parameter was changed") for counted in (0, 1)),
    ],
)
def test_what_differs_from_one_process_is_refused(work, message):
    with pytest.raises(AssertionError, match=message):
        processes.run(work, 1)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([1.0, torch.nan, 0.0]).expand(2, 3))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x):
        self.count += 1
        return x * self.weight


def test_a_buffer_is_copied_again_only_if_it_has_changed():
    masked = Masked()
    passes = stage_alone(masked, 0, 2, "stash", torch.optim.SGD(masked.parameters(), lr=0.1))
    snapshots = StageSnapshots(passes, resumable=False)
    for batch in range(3):
        snapshots.take(batch)
        passes.forward(torch.ones(2, 3))
    taken = [snapshots._taken[batch].buffers for batch in range(3)]
    assert taken[0]["mask"] is taken[1]["mask"] is taken[2]["mask"]
    assert [int(buffers["count"]) for buffers in taken] == [0, 1, 2]
    passes.stage.module.mask = -passes.stage.module.mask
    passes.stage.module.count = passes.stage.module.count.float()
    snapshots.take(3)
    torch.testing.assert_close(
        snapshots._taken[3].buffers["mask"][0], torch.tensor([-1.0, torch.nan, -0.0]), equal_nan=True
    )
    assert torch.signbit(snapshots._taken[3].buffers["mask"][0, 2])
    assert snapshots._taken[3].buffers["count"].dtype == torch.float32
