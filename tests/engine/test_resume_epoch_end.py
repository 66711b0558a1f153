"""A checkpoint from before the hooks of an epoch's end: its scheduler is stepped once, not twice and not never."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.engine.test_module import data, module, resumes, step_schedule, trainer

EPOCHS, BATCHES = 4, 6
# When checkpoints are written: behind the last mini-batch, at the end of validation, at the epoch's end.
SAVED = {
    "last batch": {"every_n_train_steps": BATCHES},
    "validation": {"save_on_train_epoch_end": False},
    "epoch": {"save_on_train_epoch_end": True},
}


class Rates(pl.Callback):
    def __init__(self):
        self.rates = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates[trainer.global_step - 1] = trainer.optimizers[0].param_groups[0]["lr"]


def fit(folder, saved, resume=None):
    rates = Rates()
    keep = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **saved)
    torch.manual_seed(0)
    pipeline = module("ema-window", scheduler=step_schedule, stage_seed=3)
    trainer(EPOCHS, callbacks=[keep, rates]).fit(pipeline, data(shuffle=False), data(shuffle=False), ckpt_path=resume)
    return rates.rates, pipeline


@resumes
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps")
@pytest.mark.filterwarnings("ignore:The `ckpt_path` checkpoint was saved mid-epoch")
@pytest.mark.parametrize("where", SAVED)
def test_every_epoch_has_its_rate_after_a_resume(where, tmp_path):
    rates, whole = fit(tmp_path, SAVED[where])
    assert sorted(set(rates.values()), reverse=True) == [0.05 / 2**epoch for epoch in range(EPOCHS)]
    again, resumed = fit(tmp_path, SAVED[where], tmp_path / f"step={2 * BATCHES}.ckpt")
    assert again == {step: rate for step, rate in rates.items() if step >= 2 * BATCHES}
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_optimizer_may_walk_its_parameters_twice():
    def groups(parameters):
        weights = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim == 1]
        return torch.optim.SGD([{"params": weights}, {"params": others, "weight_decay": 0.0}], lr=0.05)

    pipeline = module("stash")
    pipeline.make_optimizer = groups
    before = {name: p.clone() for name, p in pipeline.named_parameters()}
    trainer(1).fit(pipeline, data(), data(shuffle=False))
    assert all(not torch.equal(before[name], p) for name, p in pipeline.named_parameters())
