"""The batch loader under Lightning: epochs, and resuming at an epoch's end and in its middle."""

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from layerpipe2.lab.data import BatchLoader, TensorSplit

BATCHES = 5


class Recorder(LightningModule):
    """A linear classifier that keeps every training batch it sees."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.seen = nn.Linear(64, 4), []

    def training_step(self, batch):
        self.seen.append(batch[0].clone())
        return nn.functional.cross_entropy(self.linear(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch):
        assert batch[0].shape[1:] == (1, 8, 8)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_loader(**options):
    x = torch.randint(0, 256, (18, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return BatchLoader(TensorSplit(x, torch.arange(18) % 4), 4, mean=(0.5,), std=(0.3,), seed=1, **options)


def fit(folder, ckpt_path=None, **checkpoint):
    module, keep = Recorder(), ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **checkpoint)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=4, accelerator="cpu", callbacks=[keep], log_every_n_steps=1, **quiet)
    trainer.fit(module, make_loader(shuffle=True, augment=True), make_loader(), ckpt_path=ckpt_path)
    return module


# A resumed run goes on in the folder of its checkpoints.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize(
    ("step", "checkpoint"),
    [
        (2 * BATCHES, {"every_n_epochs": 1, "save_on_train_epoch_end": False}),
        (2 * BATCHES, {"every_n_epochs": 1, "save_on_train_epoch_end": True}),
        (2 * BATCHES + 2, {"every_n_train_steps": 1}),
    ],
)
def test_a_run_sees_the_loaders_epochs_and_a_resumed_one_their_rest(tmp_path, step, checkpoint):
    loader, expected = make_loader(shuffle=True, augment=True), []
    for epoch in range(4):
        loader.set_epoch(epoch)
        expected += [x for x, _ in loader]
    whole = fit(tmp_path, **checkpoint)
    resumed = fit(tmp_path, tmp_path / f"step={step}.ckpt", **checkpoint)
    assert len(expected) == 4 * BATCHES
    assert all(torch.equal(a, b) for a, b in zip(whole.seen, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(resumed.seen, expected[step:], strict=True))
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
