"""Training that stops or validates where the pipeline is full; training again afterwards."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from layerpipe2.distributed.strategy import PipelineStrategy
from layerpipe2.engine.execution import StepLimit
from tests.distributed import processes
from tests.distributed.fits import assert_equal, dense, fit, noise, pipelined, trainer


class Scaled(nn.Module):
    """Keeps a constant for the backward pass."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, 16)
        self.register_buffer("scale", torch.linspace(0.5, 1, 16))

    def forward(self, x):
        return torch.tanh(self.linear(x)) * self.scale


def early():
    return [EarlyStopping("val_loss", patience=1, min_delta=10.0)]


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": early, "max_epochs": 9},
        {"callbacks": lambda: [StepLimit(7)]},
        {"val_check_interval": 2},
        {"val_check_interval": 7, "check_val_every_n_epoch": None},
        {"callbacks": early, "val_check_interval": 2},
        {"check_val_every_n_epoch": 2, "max_epochs": 4},
        {"max_steps": 7},
        {"num_sanity_val_steps": 0, "limit_val_batches": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_stops_and_validations(drain, options):
    assert_equal(fit(lambda: pipelined(dense(), drain=drain), **options), 2)


def test_a_constant_buffer_outlives_a_validation():
    assert_equal(fit(lambda: pipelined([Scaled(12), Scaled(16), nn.Linear(16, 4)])), 2)


@pytest.mark.parametrize("drain", [False, True])
def test_test_and_another_training_after_an_early_stop(drain):
    def work(strategy):
        module, found = pipelined(dense(), drain=drain), []
        for _ in range(2):
            first = trainer(strategy, callbacks=early(), max_epochs=9)
            first.fit(module, noise(), noise())
            found += [first.current_epoch, first.test(module, noise(batch=20), verbose=False)]
            strategy = strategy and PipelineStrategy(timeout_s=20)
        return found, module

    assert_equal(work, 2)


def test_predicting_is_refused():
    with pytest.raises(AssertionError, match="has some of the stages only; it trains, validates and tests"):
        processes.run(_predict, 2)


def _predict():
    module = pipelined(dense())
    one = trainer(PipelineStrategy(timeout_s=20), max_epochs=1)
    one.fit(module, noise(), noise())
    one.predict(module, noise())


def test_a_limit_of_steps_may_be_saved(tmp_path):
    assert_equal(lambda strategy: _limited(strategy, tmp_path), 2, resumable=True)


def test_a_callback_that_saves_must_be_announced(tmp_path):
    with pytest.raises(AssertionError, match=r"were not kept; give the Trainer a\s+checkpoint callback, or Pipeline"):
        processes.run(lambda: _limited(PipelineStrategy(timeout_s=20), tmp_path), 2)
    assert list(tmp_path.iterdir()) == []


def _limited(strategy, folder):
    module = pipelined(dense())
    limited = trainer(strategy, callbacks=[StepLimit(7), _Save(folder / "a.ckpt")])
    limited.fit(module, noise(), noise())
    return limited.global_step, module


class _Save(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if isinstance(trainer.strategy, PipelineStrategy):
            trainer.save_checkpoint(self.path)
