"""A network and an optimizer of your own: what do late gradients cost, and what does a moving average win back?

Run: python examples/own_network.py
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from layerpipe2 import Delays, PipelinedModule, make_strategy, partition

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Block(nn.Module):
    """Any module can be a unit: here a linear layer beside a shortcut."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, features), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B, F)."""
        return x + self.inner(x)


def network() -> list[nn.Module]:
    """A flat list: calling the units one after the other is the network."""
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 48)), *(Block(48) for _ in range(4)), nn.Linear(48, 10)]


def train(strategy: str, group_size: int, epochs: int) -> float:
    """Validation accuracy in per cent after training; a group of all units is training without a pipeline."""
    torch.manual_seed(0)
    images, classes = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(classes))
    training, validation = random_split(data, [1500, 297])
    stages = partition(network(), group_size)
    module = PipelinedModule(
        stages,
        Delays.layerpipe2(len(stages)),
        make_strategy(strategy),
        optimizer=lambda parameters: torch.optim.NAdam(parameters, lr=0.002, betas=(0.95, 0.999)),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    )
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", **QUIET)
    trainer.fit(module, DataLoader(training, batch_size=32, shuffle=True), DataLoader(validation, batch_size=297))
    return 100 * trainer.callback_metrics["val_accuracy"].item()


def main(epochs: int = 5) -> None:
    """Print a line for each way of training: one stage, then six. With one seed, a point or two is noise."""
    for strategy, group_size in (("sequential", 6), ("stash", 1), ("latest", 1), ("ema-span", 1)):
        print(f"{strategy:12} {train(strategy, group_size, epochs):5.1f} %")


if __name__ == "__main__":
    main()
