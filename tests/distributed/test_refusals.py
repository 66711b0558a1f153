"""What can't be trained by several processes is refused by all of them, saying what to change."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from layerpipe2.distributed.strategy import PipelineStrategy
from tests.distributed import processes
from tests.distributed.fits import dense, noise, pipelined, trainer


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


def plateau():
    return pipelined(dense(), scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


@pytest.mark.parametrize(
    ("make", "data", "options", "message"),
    [
        (plateau, noise, {}, "ReduceLROnPlateau waits for a metric"),
        (Plain, noise, {}, "PipelineStrategy trains a PipelinedModule, not a Plain"),
        (lambda: pipelined(dense()), lambda: DataLoader(Endless(), 8), {}, "a DataLoader without a length can't feed"),
        (
            lambda: pipelined(dense()),
            noise,
            {"reload_dataloaders_every_n_epochs": 1},
            "reads ahead into the next epoch",
        ),
        (
            lambda: pipelined(dense()),
            noise,
            {"val_check_interval": 2, "enable_checkpointing": True},
            "save_on_train_epoch",
        ),
    ],
    ids=["plateau", "plain module", "no length", "reload", "checkpoint in an epoch"],
)
def test_refused(make, data, options, message, tmp_path):
    def work():
        one = trainer(PipelineStrategy(timeout_s=20), default_root_dir=tmp_path, **options)
        one.fit(make(), data(), data())

    found = processes.ends(work, 2, tmp_path)
    assert [code for code, _ in found] == [2, 2]
    assert all(message in said for _, said in found), found


def test_freezing_while_training_is_refused():
    with pytest.raises(AssertionError, match="a parameter was frozen or unfrozen while training; do it before"):
        processes.run(_freeze, 2)


def _freeze():
    trainer(PipelineStrategy(timeout_s=20), callbacks=[Unfreezing()]).fit(pipelined(dense()), noise(), noise())
