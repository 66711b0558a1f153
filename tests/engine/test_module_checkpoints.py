"""Checkpoints: a resumed run is bit-equal to the uninterrupted one, from wherever it is resumed, or it is refused."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging

from layerpipe2 import STRATEGIES, Delays, UserError
from tests.engine.training import assert_bit_equal, checkpoint, data, fit, module, resume, resumes, trainer

pytestmark = [
    resumes,
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps"),
    pytest.mark.filterwarnings("ignore:The `ckpt_path` checkpoint was saved mid-epoch"),
]
EPOCHS, BATCHES = 4, 6
# When checkpoints are written: behind the last mini-batch, at the end of validation, at the epoch's end.
SAVED = {
    "last batch": {"every_n_train_steps": BATCHES},
    "validation": {"save_on_train_epoch_end": False},
    "epoch": {"save_on_train_epoch_end": True},
}


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "sequential"] + ["ema-lsq-raw"])
@pytest.mark.parametrize("drain", [False, True])
def test_resume_is_bit_equal_to_the_uninterrupted_run(strategy, drain, tmp_path):
    whole = fit(module(strategy, drain=drain), 4)
    resumed = resume(checkpoint(tmp_path, module(strategy, drain=drain), 2), module(strategy, drain=drain), 4)
    assert_bit_equal(resumed.state_dict(), whole.state_dict())
    for mine, theirs in zip(resumed.engine.delayed.values(), whole.engine.delayed.values(), strict=True):
        assert torch.equal(mine.line, theirs.line)
        assert_bit_equal(mine.state, theirs.state)
    assert int(whole.engine.step_count) == (6 if drain else 24)


@pytest.mark.parametrize(
    ("strategy", "others", "message"),
    [
        ("stash", [("stash", Delays.pipedream(4))], r"saved with {'delays': \[6, 4, 2, 0\]}, .* {'delays': \[3, 2, 1"),
        ("ema-window", [(s,) for s in ("stash", "latest", "ema-window-raw", "ema-span")], "resume with the same"),
    ],
)
def test_a_checkpoint_of_another_pipeline_is_refused(strategy, others, message, tmp_path):
    path = checkpoint(tmp_path, module(strategy), 1)
    for other in others:
        with pytest.raises(UserError, match=message):
            resume(path, module(*other), 2)


def test_drain_after_a_checkpoint_of_the_last_batch(tmp_path):
    def drained():
        return module("ema-window", drain=True, scheduler=None)

    path = checkpoint(tmp_path, drained(), 1, **SAVED["last batch"])
    resumed = resume(path, drained(), 2, **SAVED["last batch"])
    assert_bit_equal(resumed.state_dict(), fit(drained(), 2).state_dict())


def test_a_checkpoint_that_is_only_tested_leaves_no_trace(tmp_path):
    fresh, tested = fit(module("ema-window"), 1), module("ema-window")
    initial = copy.deepcopy(tested.state_dict())
    path = checkpoint(tmp_path, module("ema-window"), 1)
    tester = trainer(1, callbacks=[ModelCheckpoint(tmp_path, save_last=True)])
    tester.test(tested, data(shuffle=False), ckpt_path=path, verbose=False)
    tested.load_state_dict(initial)
    fit(tested, 1)
    assert_bit_equal(tested.state_dict(), fresh.state_dict())
    assert int(tested.engine.step_count) == 6


def test_a_checkpoint_of_an_untrained_module_starts_as_one_without(tmp_path):
    """Weights can be validated and saved before training; what continues from there begins with an empty pipeline."""
    untrained, path = module("ema-window"), tmp_path / "initial.ckpt"
    one = trainer(1)
    one.validate(untrained, data(shuffle=False), verbose=False)
    one.save_checkpoint(path)
    assert_bit_equal(untrained.state_dict(), module("ema-window").state_dict())
    resumed = fit(module("ema-window"), 1, ckpt_path=path, enable_checkpointing=True, default_root_dir=tmp_path)
    assert int(resumed.engine.step_count) == int(fit(module("ema-window"), 1).engine.step_count) == 6


class Rates(pl.Callback):
    def __init__(self):
        self.rates = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates[trainer.global_step - 1] = trainer.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize("where", SAVED)
def test_every_epoch_has_its_rate_after_a_resume(where, tmp_path):
    """A checkpoint may come from before the hooks of an epoch's end: the scheduler is stepped once all the same."""

    def run(path=None):
        rates = Rates()
        keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **SAVED[where])
        pipeline = module("ema-window", stage_seed=3)
        torch.manual_seed(0)
        trainer(EPOCHS, callbacks=[keep, rates]).fit(pipeline, data(False), data(False), ckpt_path=path)
        return rates.rates, pipeline.state_dict()

    rates, whole = run()
    assert sorted(set(rates.values()), reverse=True) == [0.05 / 2**epoch for epoch in range(EPOCHS)]
    again, resumed = run(tmp_path / f"step={2 * BATCHES}.ckpt")
    assert again == {step: rate for step, rate in rates.items() if step >= 2 * BATCHES}
    assert_bit_equal(whole, resumed)


def test_a_checkpoint_whose_weights_are_not_its_pipelines(tmp_path):
    model, path = module("ema-window"), tmp_path / "halved.ckpt"
    one = trainer(1)
    one.fit(model, data(), data(shuffle=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    one.save_checkpoint(path)
    with pytest.raises(UserError, match="stage 0: the checkpoint's weights are not those that its pipeline was at"):
        fit(module("ema-window"), 2, ckpt_path=path)


@pytest.mark.parametrize("first", ["nothing left to train", "refused"])
def test_a_checkpoint_that_was_not_used_leaves_no_trace(first, tmp_path):
    path, model = checkpoint(tmp_path, module("ema-window"), 1), module("ema-window")
    if first == "refused":
        with pytest.raises(UserError, match="doesn't work with a pipeline"):
            fit(model, 2, ckpt_path=path, callbacks=[StochasticWeightAveraging(0.1)], enable_checkpointing=False)
        model = module("ema-window")
        model.drain = "no"
        with pytest.raises(UserError, match="drain is 'no'"):
            fit(model, 2, ckpt_path=path)
        model.drain = False
    else:
        resume(path, model, 1)
    fresh = module("ema-window")
    fresh.load_state_dict(model.state_dict())
    assert_bit_equal(fit(model, 1).state_dict(), fit(fresh, 1).state_dict())
    assert int(model.engine.step_count) == 6


class Failing(pl.Callback):
    """Ends the first evaluation after its second mini-batch."""

    def __init__(self):
        self.failed = False

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 1 and not self.failed:
            self.failed = True
            raise RuntimeError("interrupted")

    on_test_batch_end = on_validation_batch_end


@pytest.mark.parametrize("phase", ["validate", "test"])
def test_an_interrupted_evaluation_does_not_count(phase):
    model, failing = module("latest"), Failing()
    one = trainer(1, callbacks=[failing], enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        getattr(one, phase)(model, data(shuffle=False), verbose=False)
    with torch.no_grad():
        next(model.parameters()).mul_(3)  # else the mini-batches before would not show
    again = getattr(one, phase)(model, data(shuffle=False), verbose=False)
    fresh = module("latest")
    fresh.load_state_dict(model.state_dict())
    assert again == getattr(trainer(1), phase)(fresh, data(shuffle=False), verbose=False)
