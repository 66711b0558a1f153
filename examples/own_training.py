"""A training of your own for the command line: its function says network, data and loss, options say the rest.

Run: layerpipe2 balance --module examples.own_training:training --stages 3
     layerpipe2 advise --module examples.own_training:training --stages 3 --lr 0.05
     layerpipe2 tune --module examples.own_training:training --stages 3 --space lr=log:1e-3:1 --epochs 3
     layerpipe2 advise --module examples.own_training:pipeline      needs nothing but the library
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import PipelinedModule, cut


class Network(nn.Module):
    """Residual layers with a forward of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 32), nn.Linear(32, 2)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Points (B, 2) -> logits (B, 2)."""
        x = self.first(x).tanh()
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.last(x)


def training() -> tuple[nn.Module, tuple[DataLoader, DataLoader], nn.Module]:
    """Network; loaders of training and validation batches: a noisy circle against its inside; loss."""
    points = torch.randn(1280, 2)
    classes = (points.norm(dim=1) + 0.1 * torch.randn(1280) > 1).long()
    parts = (TensorDataset(points[a:b], classes[a:b]) for a, b in ((0, 1024), (1024, 1280)))
    train, validation = parts
    return Network(), (DataLoader(train, 32, shuffle=True), DataLoader(validation, 256)), nn.CrossEntropyLoss()


def pipeline() -> tuple[PipelinedModule, DataLoader]:
    """The same with all settings in the code, for optimizers and options of PipelinedModule that no option names."""
    network, (train, _), loss = training()
    stages = cut(network, torch.randn(32, 2), at=["blocks.0", "blocks.2"])
    optimizer = lambda parameters: torch.optim.RMSprop(parameters, lr=0.001)  # noqa: E731
    return PipelinedModule(stages, "layerpipe2", "ema-span", optimizer=optimizer, loss=loss), train
