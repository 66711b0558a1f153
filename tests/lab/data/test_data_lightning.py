"""The batch loader under Lightning: epochs, and resuming at an epoch's end and in its middle."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from layerpipe2.lab.data import BatchLoader, TensorSplit

BATCHES = 5


class Recorder(LightningModule):
    """A linear classifier that keeps every training batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 4)
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Keep the images and return the loss."""
        x, y = batch
        self.seen.append(x.clone())
        return nn.functional.cross_entropy(self.linear(x.flatten(1)), y)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Run over the validation loader."""
        assert batch[0].shape[1:] == (1, 8, 8)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_loader(**options: Any) -> BatchLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (18, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return BatchLoader(TensorSplit(x, torch.arange(18) % 4), 4, mean=(0.5,), std=(0.3,), seed=1, **options)


def fit(folder: Path, epochs: int, ckpt_path: Path | None = None, **checkpoint: Any) -> Recorder:
    module = Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **checkpoint)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, make_loader(shuffle=True, augment=True), make_loader(), ckpt_path=ckpt_path)
    return module


def test_every_epoch_under_lightning_is_the_loaders_epoch(tmp_path: Path) -> None:
    seen = fit(tmp_path, 3).seen
    loader = make_loader(shuffle=True, augment=True)
    expected = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        expected += [x for x, _ in loader]
    assert len(seen) == len(expected) == 3 * BATCHES
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


# A resumed run goes on in the folder of its checkpoints.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("step", [2 * BATCHES, 2 * BATCHES + 2], ids=["epoch end", "mid-epoch"])
@pytest.mark.parametrize("on_train_epoch_end", [False, True])
def test_a_resumed_run_sees_the_same_batches(tmp_path: Path, step: int, on_train_epoch_end: bool) -> None:
    checkpoint: dict[str, Any] = {"every_n_train_steps": 1}
    if step % BATCHES == 0:
        checkpoint = {"every_n_epochs": 1, "save_on_train_epoch_end": on_train_epoch_end}
    whole = fit(tmp_path, 4, **checkpoint)
    resumed = fit(tmp_path, 4, tmp_path / f"step={step}.ckpt", **checkpoint)
    assert len(resumed.seen) == 4 * BATCHES - step
    assert all(torch.equal(a, b) for a, b in zip(resumed.seen, whole.seen[step:], strict=True))
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
