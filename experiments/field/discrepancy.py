"""PipeMare's T2, the nearest relative of LayerPipe2's average."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.strategies import MovingAverage, State


def pipemare_decay(span: int) -> float:
    """``D^(1/n)`` with ``D = exp(-2)``, a value as cited in secondary sources."""
    return math.exp(-2 / span)


@dataclass(frozen=True)
class DiscrepancyCorrection(MovingAverage):
    """PipeMare's T2 (arXiv 1910.05124): the backward pass reads ``W(t) - n delta``, about what the forward pass read.

    ``delta <- G delta + (1 - G) (W(t+1) - W(t))`` from 0 on, ``G = D^(1/d)``: so ``-delta`` is a moving average of the
    applied updates, and the row :class:`layerpipe2.strategies.MovingAverage` but for the beginning. There the weights
    of the average don't sum to one, and ``G`` doesn't follow the number ``n`` of updates since the forward pass, which
    rises to ``d`` while the pipeline fills. It touches the inconsistency alone, and keeps one copy.
    """

    decay: Callable[[int], float] = pipemare_decay

    def init(self, weights: Tensor, delay: int) -> State:
        """``average`` -delta (N,), and ``gain`` 1 - G (1,)."""
        return {"average": torch.zeros_like(weights), "gain": weights.new_full((1,), 1 - self._decay(delay))}
