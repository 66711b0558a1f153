"""A training that a YAML file describes, with Lightning's own command line: every setting is an option there.

Run: python examples/lightning_cli.py fit --config examples/lightning_cli.yaml --model.strategy stash
"""

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from layerpipe2 import PipelinedModule, partition


class DigitsModule(PipelinedModule):
    """The network; whatever else a pipeline needs is passed on, so that the file or an option sets it."""

    def __init__(self, width: int = 48, depth: int = 4, group_size: int = 1, **options) -> None:
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        middle = [nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
        super().__init__(partition([first, *middle, nn.Linear(width, 10)], group_size), **options)
        self.save_hyperparameters("width", "depth", "group_size")


class DigitsData(pl.LightningDataModule):
    """scikit-learn's digits, a part of them for validation."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        images, classes = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes))
        self.parts = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        """Mini-batches in a new order every epoch."""
        return DataLoader(self.parts[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """All of them at once."""
        return DataLoader(self.parts[1], 297)


def main() -> LightningCLI:
    """The pipeline makes its optimizer, from `model.optimizer`, so that Lightning's own --optimizer is left out."""
    return LightningCLI(DigitsModule, DigitsData, auto_configure_optimizers=False)


if __name__ == "__main__":
    main()
