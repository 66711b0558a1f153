"""Your own Lightning data module, callbacks, a checkpoint, and a run that continues from it bit for bit.

Run: python examples/own_data_module.py
"""

import tempfile

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import Delays, PipelinedModule, make_strategy, partition


class Spirals(pl.LightningDataModule):
    """Two spirals in the plane, a class each."""

    def setup(self, stage: str) -> None:
        """Draw the points."""
        radius, classes = torch.rand(1024, generator=torch.Generator().manual_seed(0)), torch.arange(1024) % 2
        angle = 4 * radius + torch.pi * classes
        self.data = TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), classes)

    def train_dataloader(self) -> DataLoader:
        """In a new order every epoch."""
        return DataLoader(self.data, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """All points at once."""
        return DataLoader(self.data, batch_size=1024)


def fit(folder: str, epochs: int, resume: str | None = None) -> PipelinedModule:
    """Train up to that epoch, from the start or from a checkpoint."""
    torch.manual_seed(0)
    units = [nn.Sequential(nn.Linear(2, 32), nn.Tanh()), nn.Sequential(nn.Linear(32, 32), nn.Tanh()), nn.Linear(32, 2)]
    delays, history = Delays.layerpipe2(3), make_strategy("ema-window")
    module = PipelinedModule(partition(units, 1), delays, history, optimizer=lambda p: torch.optim.AdamW(p, lr=0.003))
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    options = {"logger": CSVLogger(folder), "callbacks": [keep, Timer()], "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", **options)
    trainer.fit(module, datamodule=Spirals(), ckpt_path=resume)
    print(f"epoch {epochs}: validation accuracy {100 * trainer.callback_metrics['val_accuracy'].item():.1f} %")
    return module


def main(epochs: int = 20) -> None:
    """Train in one go, then again from the checkpoint of the middle, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        whole = fit(folder, epochs).state_dict()
        resumed = fit(folder, epochs, resume=f"{folder}/epoch={epochs // 2 - 1}.ckpt").state_dict()
    print("same bits:", all(torch.equal(whole[name], resumed[name]) for name in whole))


if __name__ == "__main__":
    main()
