"""A weight history fed with a given path of weights, and one that a small pipeline trains with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2 import Delays, partition
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import WeightHistory

FOUR = Delays.layerpipe2(4)


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


def engine(history: WeightHistory, delays: Delays = FOUR) -> tuple[PipelineEngine, torch.optim.Optimizer]:
    torch.manual_seed(0)
    units: list[nn.Module] = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()).double() for _ in range(3)]
    made = PipelineEngine(partition([*units, nn.Linear(6, 4).double()], 1), delays, history)
    parameters = [p for stage in made.stages for p in stage.parameters()]
    return made, torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def losses(made: PipelineEngine, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    found = []
    for t in steps:
        generator = torch.Generator().manual_seed(t)
        x = torch.randn(8, 6, dtype=torch.float64, generator=generator)
        y = torch.randint(4, (8,), generator=generator)
        found.append(float(made.train_step(x, y, F.cross_entropy, optimizer)[0]))
    return found
