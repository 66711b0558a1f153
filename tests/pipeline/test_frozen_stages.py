"""Parameters are frozen and unfrozen while several processes train: as in one process, or refused in one line."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning

from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes
from tests.pipeline.fits import (
    Rows,
    assert_all_equal,
    assert_equal,
    dense,
    fit,
    noise,
    pipelined,
    resumed_equals_whole,
    trainer,
)
from tests.sampling import sampled


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


def test_a_resumed_run_is_frozen_as_the_interrupted_one(tmp_path):
    def make(epoch):
        def work(strategy):
            rows, module = Rows(), pipelined(dense())
            one = trainer(strategy, [rows, Unfreeze()], tmp_path, max_epochs=4)
            one.fit(module, noise(), noise(), ckpt_path=epoch and tmp_path / f"epoch={epoch}.ckpt")
            return rows.rows, module

        return work

    resumed_equals_whole(make, 2, 2, epoch=2)


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
