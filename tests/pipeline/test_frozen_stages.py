"""Parameters are frozen and unfrozen while several processes train: as in one process, or refused in one line."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning

from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes
from tests.pipeline.fits import (
    Rows,
    assert_equal,
    assert_same_weights,
    dense,
    fit,
    in_process,
    merged,
    noise,
    pipelined,
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


@pytest.mark.parametrize("split_backward", sampled([False, True], [True]))
@pytest.mark.parametrize("plan", PLANS)
def test_frozen_at_any_time(plan, split_backward):
    work = fit(lambda: pipelined(dense(), "ema-window", unfreezes=True), lambda: [Plan(PLANS[plan])])
    assert_equal(work, 2, split_backward=split_backward)


@pytest.mark.parametrize("strategy", sampled(["stash", "latest", "pair"], ["latest"]))
def test_fine_tuning(strategy):
    assert_equal(fit(lambda: pipelined(dense(), strategy), lambda: [Unfreeze()]), 3)


def test_what_was_trained_may_be_frozen_without_announcement():
    frozen = lambda epoch, batch: [1] if epoch == 1 else []  # noqa: E731
    assert_equal(fit(lambda: pipelined(dense()), lambda: [Plan(frozen)]), 2)


def test_a_resumed_run_is_frozen_as_the_interrupted_one(tmp_path):
    def run(epochs, resume=None, folder=None):
        def work(strategy):
            rows, module = Rows(), pipelined(dense())
            one = trainer(strategy, [rows, Unfreeze()], folder, max_epochs=epochs)
            one.fit(module, noise(), noise(), ckpt_path=resume)
            return rows.rows, module

        return processes.run(in_process, 2, work)

    whole = run(4, folder=tmp_path)
    resumed = run(4, tmp_path / "epoch=2.ckpt", tmp_path)
    assert resumed[0][0][-1] == whole[0][0][-1]
    assert_same_weights(merged(resumed), merged(whole))


def test_unfreezing_must_be_announced():
    with pytest.raises(AssertionError, match=r"stage 0: a parameter that was frozen when training began was unfrozen"):
        processes.run(_unannounced, 2)


def _unannounced():
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


@pytest.mark.parametrize("counted", [True, False])
def test_a_frozen_weight_that_changes_is_noticed(counted):
    with pytest.raises(AssertionError, match=r"stage 0: a frozen parameter was changed"):
        processes.run(_halves_what_is_frozen, 2, counted)


def test_with_an_empty_pipeline_a_frozen_weight_may_change():
    def make():
        return _partly_frozen(drain=True)

    assert_equal(fit(make, lambda: [_Halve(counted=False)]), 2)


def _halves_what_is_frozen(counted):
    trainer(PipelineStrategy(timeout_s=20), [_Halve(counted)]).fit(_partly_frozen(), noise(), noise())


def _partly_frozen(**options):
    module = pipelined(dense(), "stash", **options)
    module.stages[0][0].weight.requires_grad_(False)
    return module
