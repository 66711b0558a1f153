"""Data as Lightning's users have them: shuffled loaders, data modules with hooks, doubles made by the Trainer."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from layerpipe2.distributed.strategy import PipelineStrategy
from tests.distributed import processes
from tests.distributed.fits import Rows, assert_equal, dense, fit, noise, pipelined, trainer


class Noise(pl.LightningDataModule):
    """Data that are changed before, while and after they are sent to the device."""

    def train_dataloader(self):
        return noise()

    val_dataloader = train_dataloader

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x + 0.5 if self.trainer.training else x, y

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        x, y = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return x * 2, y

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x - 1, y


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (lambda: noise(shuffle=True, generator=torch.Generator().manual_seed(1)), {"validation": noise}),
        (lambda: noise(shuffle=True), {"limit_val_batches": 0, "validation": noise}),
        (lambda: noise(size=45), {}),
        (lambda: noise(), {"precision": "64-true"}),
    ],
    ids=["generator", "default generator", "last one smaller", "double"],
)
def test_loaders(data, options):
    assert_equal(fit(lambda: pipelined(dense()), data=data, **options), 2)


def test_a_drained_pipeline_draws_as_one_process():
    assert_equal(fit(lambda: pipelined(dense(), drain=True), data=lambda: noise(shuffle=True), validation=noise), 2)


def test_hooks_of_a_data_module():
    def work(strategy):
        rows, module = Rows(), pipelined(dense())
        trainer(strategy, callbacks=[rows], num_sanity_val_steps=0).fit(module, datamodule=Noise())
        return rows.rows, module

    assert_equal(work, 2)


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("size", [40, 16])  # an epoch of five mini-batches, and one shorter than the delay
def test_a_resumed_run_goes_on_in_the_same_order(drain, size, tmp_path):
    (whole, *_), resumed = (processes.run(_shuffled, 2, tmp_path, drain, size, **o) for o in ({}, {"resume": True}))
    assert resumed[0][0][-4:] == whole[0][-4:]
    assert all(torch.equal(whole[1][name], value) for name, value in resumed[0][1].items())


def _shuffled(folder, drain, size, resume=False):
    torch.manual_seed(0)
    rows, module = Rows(), pipelined(dense(), drain=drain)
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    one = trainer(PipelineStrategy(timeout_s=20), callbacks=[rows, keep], enable_checkpointing=True, max_epochs=5)
    data = [noise(size=size, shuffle=True), noise(size=size)]
    one.fit(module, *data, ckpt_path=folder / "epoch=1.ckpt" if resume else None)
    return rows.rows, module.state_dict()


class Prepared(Noise):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def prepare_data(self):
        (self.folder / str(len(list(self.folder.iterdir())))).touch(exist_ok=False)


def test_one_process_prepares_the_data(tmp_path):
    processes.run(lambda: trainer(PipelineStrategy(), max_epochs=1).fit(pipelined(dense()), Prepared(tmp_path)), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
