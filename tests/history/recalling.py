"""A weight history fed with a given path of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from layerpipe2.history import WeightHistory


def walk(steps: int = 60, size: int = 5, correlation: float = 0.0) -> Tensor:
    """Weights W(0), W(1), ... (steps, size) of a random walk whose updates are AR(1)."""
    updates = torch.randn(steps, size, dtype=torch.float64)
    for t in range(1, steps):
        updates[t] += correlation * updates[t - 1]
    return updates.cumsum(0)


def line(steps: int) -> Tensor:
    """Weights (steps, 2) under equal updates."""
    return torch.arange(steps, dtype=torch.float64)[:, None] * torch.tensor([[0.5, -2.0]])


def delayed(path: Tensor, delay: int) -> Tensor:
    """W(max(0, t - d)) before each update."""
    return path[(torch.arange(len(path) - 1) - delay).clamp(min=0)]


def recall_along(history: WeightHistory, path: Tensor, delay: int) -> Tensor:
    """What is recalled before each update of ``path``; NaN if it looks at weights that it says it does not keep."""
    state, true = history.init(path[0], delay), delayed(path, delay)
    recalled = []
    for t in range(len(path) - 1):
        kept = true[t] if history.keeps_weights else torch.full_like(path[0], torch.nan)
        recalled.append(history.recall(state, path[t], kept, torch.tensor([t])))
        history.record(state, path[t] - path[t + 1], torch.tensor([t]))
    return torch.stack(recalled)
