"""Weight prediction: the forward pass reads where the weights are likely to be when its gradient arrives.

``W(t + d) = W(t) - u(t) - ... - u(t + d - 1)``. All let one step ``s(t)`` that is known at ``t`` stand for each
of these updates, ``W(t + d) ~ W(t) - d s(t)``; they differ in ``s`` alone. A forward pass that read ``W(t + d)`` would
have no delay at all; and a backward pass with the latest weights, which then are ``W(t + d)``, no inconsistency. So
prediction can touch both parts of the cost. It keeps one copy, the predicted weights; with a stash ``d`` more.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerpipe2.strategies.base import OptimizerView, State, Strategy


@dataclass(frozen=True)
class Prediction(Strategy):
    """``W(t) - d s(t)``; a subclass says what ``s`` is."""

    constants = ("delay",)

    def step(self, state: State, optimizer: OptimizerView) -> Tensor:
        """The step ``s(t)`` (N,)."""
        raise NotImplementedError

    def init(self, weights: Tensor, delay: int) -> State:
        """``delay`` (1,)."""
        return {"delay": torch.full((1,), delay, device=weights.device)}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """``W(t) - d s(t)``."""
        return latest - state["delay"] * self.step(state, optimizer)

    def copies(self, delay: int, **known: Any) -> float:
        """The predicted weights, and with a stash those of the mini-batches in flight."""
        return super().copies(delay, **known) + 1.0 if delay else 0.0


@dataclass(frozen=True)
class LastUpdate(Prediction):
    """Last-update prediction (marin, pull request 6423): ``s = u(t - 1)``, of any optimizer.

    ``u`` has weight decay and whatever else is applied. The predicted weights hold it, ``u = (W - forward) / d``, so
    that it needs no copy of its own.
    """

    changes_update = False

    def init(self, weights: Tensor, delay: int) -> State:
        """``delay`` (1,), and ``newest`` (N,), the newest update."""
        return super().init(weights, delay) | {"newest": torch.zeros_like(weights)}

    def step(self, state: State, optimizer: OptimizerView) -> Tensor:
        """``u(t - 1)``."""
        return state["newest"]

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Keep the update."""
        torch.sub(before, after, out=state["newest"])
        return after

    def copies(self, delay: int, **known: Any) -> float:
        """As the others: see the class."""
        return super().copies(delay, **known) - 1.0 if delay else 0.0
