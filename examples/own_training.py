"""A training of your own for the command line; it needs nothing but the library.

Run: layerpipe2 balance --module examples.own_training:training --stages 3
     layerpipe2 advise --module examples.own_training:training
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import PipelinedModule, partition


def training() -> tuple[PipelinedModule, DataLoader]:
    """The module as it is to be trained, and the loader of its training batches: a noisy circle against its inside."""
    torch.manual_seed(0)
    units = [nn.Sequential(nn.Linear(2, 32), nn.Tanh()), *(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in "123")]
    module = PipelinedModule(
        partition([*units, nn.Linear(32, 2)], group_size=1),
        "layerpipe2",
        "ema-span",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    )
    points = torch.randn(1024, 2)
    data = TensorDataset(points, (points.norm(dim=1) + 0.1 * torch.randn(1024) > 1).long())
    return module, DataLoader(data, batch_size=32, shuffle=True)
