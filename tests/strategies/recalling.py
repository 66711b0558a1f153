"""A strategy fed with a given path of weights, and one that a small pipeline trains with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2 import Delays, partition
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import State, Strategy, begin, count

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


class NoOptimizer:
    """One whose settings are all 1, without buffers."""

    def __init__(self, like: Tensor) -> None:
        self.like = like

    def rate(self) -> Tensor:
        return torch.ones_like(self.like)

    def setting(self, name: str) -> Tensor:
        return torch.ones_like(self.like)

    def state(self, name: str) -> Tensor:
        return torch.zeros_like(self.like)


def recall_along(strategy: Strategy, path: Tensor, delay: int, state: State | None = None) -> Tensor:
    """What backward passes read before each update of ``path``, that of SGD with rate 1.

    NaN if one looks at weights that its strategy says it does not need. ``state``: a new one, to be looked at later.
    """
    state, true = begin(strategy, path[0], delay) if state is None else state, delayed(path, delay)
    recalled = []
    for t in range(len(path) - 1):
        kept = true[t] if strategy.needs_used else torch.full_like(path[0], torch.nan)
        strategy.forward(state, path[t], NoOptimizer(path[0]))
        recalled.append(strategy.backward(state, path[t], kept))
        strategy.gradient(state, path[t] - path[t + 1], path[t], kept)
        strategy.update(state, path[t], path[t + 1])
        count(state, delay)
    return torch.stack(recalled)


def engine(strategy: Strategy, delays: Delays = FOUR) -> tuple[PipelineEngine, torch.optim.Optimizer]:
    torch.manual_seed(0)
    units: list[nn.Module] = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()).double() for _ in range(3)]
    made = PipelineEngine(partition([*units, nn.Linear(6, 4).double()], 1), delays, strategy)
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
