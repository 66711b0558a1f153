"""What a stage in its own process recalls before a backward pass, and records of an update.

The parameters are the latest weights themselves, so that an update is the difference from a copy of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.engine.weights import DelayedWeights, update_rates
from layerpipe2.strategies import WeightHistory


class StageHistory:
    """The weight history of a stage whose parameters are views of ``weights.latest``.

    Args:
        weights: what the stage remembers.
        history: what is made of it.
        step: number of updates, int64 of shape (1,), counted by the stage.
    """

    def __init__(self, weights: DelayedWeights, history: WeightHistory, step: Tensor) -> None:
        self.weights, self._history, self._step = weights, history, step

    @torch.no_grad()
    def recall(self) -> Tensor:
        """The weights (N,) for the next backward pass."""
        weights = self.weights
        delayed = weights.delayed(self._step) if weights.rows else weights.latest
        return self._history.recall(weights.state, weights.latest, delayed, self._step)

    @contextmanager
    def recording(self, optimizer: Optimizer | Any) -> Iterator[None]:
        """Within, ``optimizer`` changes the weights; then the history learns of it."""
        weights, consumes, update = self.weights, self._history.consumes, None
        weights.keep(self._step)
        if consumes == "gradients":
            update = weights.scaled_gradients(update_rates(optimizer))
        elif consumes == "updates":
            update = weights.latest.clone()
        yield
        if update is not None:
            with torch.no_grad():
                if consumes == "updates":
                    update -= weights.latest
                self._history.record(weights.state, update, self._step)
