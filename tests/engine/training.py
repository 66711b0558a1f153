"""A pipeline of three stages around the one that a test is about, and its training on noise."""

import torch
import torch.nn.functional as F
from torch import nn

from layerpipe2 import Delays, make_history
from layerpipe2.engine.step import PipelineEngine

MIDDLE = Delays.custom([2, 1, 0])


def engine(middle: nn.Module, strategy: str = "latest", delays=MIDDLE, **options) -> PipelineEngine:
    torch.manual_seed(3)
    return PipelineEngine([nn.Linear(8, 8), middle, nn.Linear(8, 8)], delays, make_history(strategy), **options)


def optimizer_of(pipeline: PipelineEngine, **options) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for s in pipeline.stages for p in s.parameters()], lr=0.1, **options)


def train(pipeline: PipelineEngine, steps: int = 1, optimizer=None) -> list[float]:
    optimizer = optimizer or optimizer_of(pipeline)
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(steps):
        x = torch.randn(4, 8, generator=generator)
        losses.append(float(pipeline.train_step(x, torch.tensor([1, 2, 3, 4]), F.cross_entropy, optimizer)[0]))
    return losses
