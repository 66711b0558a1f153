"""What can't be trained by several processes is refused by all of them, saying what to change."""

import os
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from layerpipe2.distributed.strategy import PipelineStrategy
from tests.distributed import processes
from tests.distributed.fits import Case, dense, in_process, noise, pipelined, trainer


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(12), torch.tensor(1)


class Plain(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Unfreezing(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        for parameter in pl_module.parameters():
            parameter.requires_grad_(trainer.current_epoch == 0)


def fit(make=lambda: pipelined(dense()), data=noise, **options):
    one = trainer(PipelineStrategy(timeout_s=20), **options)
    one.fit(make(), data(), data())
    return one


def plateau():
    return pipelined(dense(), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


def predict():
    fit(max_epochs=1).predict(pipelined(dense()), noise())


def uneven():
    in_process(Case(), stages_per_process=[1, 2])


def two_clippings():
    in_process(Case(clip=0.5 if os.environ["RANK"] == "1" else None))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (partial(fit, plateau), "ReduceLROnPlateau waits for a metric"),
        (partial(fit, Plain), "PipelineStrategy trains a PipelinedModule, not a Plain"),
        (partial(fit, data=lambda: DataLoader(Endless(), 8)), "a DataLoader without a length can't feed"),
        (partial(fit, reload_dataloaders_every_n_epochs=1), "reads ahead into the next epoch"),
        (partial(fit, val_check_interval=2, enable_checkpointing=True), "save_on_train_epoch"),
        (partial(fit, callbacks=[Unfreezing()]), "a parameter was frozen or unfrozen while training; do it before"),
        (predict, "has some of the stages only; it trains, validates and tests"),
        (
            partial(in_process, Case(), stages_per_process=[1, 2]),
            "stages_per_process is [1, 2]; give 2 numbers that add up to 4",
        ),
        (partial(in_process, Case(delays=(0, 2, 0, 0))), "delays [0, 2, 0, 0] grow towards the output"),
        (partial(in_process, Case(options={"precision": "bf16-mixed"})), "computes in the parameters' own type"),
        (two_clippings, "rank 1 differs from rank 0 in drain, clipping, seed of the stages: False, 0.5, 7 against"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(work, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = processes.ends(work, 2, tmp_path)
    assert [code for code, _ in found] == [2, 2]
    assert all(message in said for _, said in found), found


def test_more_processes_than_stages():
    with pytest.raises(AssertionError, match="4 stages for 5 processes; start at most one process per stage"):
        processes.run(in_process, 5, Case())
