"""Two buffers per stage as an average with complex poles: the least error that white updates allow them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.strategies import FromLatest, State
from layerpipe2.theory.poles import two_poles


@dataclass(frozen=True)
class TwoPoleAverage(FromLatest):
    """``W(t) + x a + y b``, with ``(a, b) <- M (a, b) + (u, 0)``; see :mod:`layerpipe2.theory.poles`.

    Both buffers begin at zero, so that the kernel is cut off while the pipeline fills; constant drift is unbiased
    behind that.
    """

    fixed_lag = True
    constants = ("rows", "gains")

    def init(self, weights: Tensor, delay: int) -> State:
        """``buffers`` (2, N), ``rows`` (2, 2) and ``gains`` (2,)."""
        found, zeros = two_poles(delay), torch.zeros_like(weights)
        buffers = torch.stack([zeros, zeros])
        return {"buffers": buffers, "rows": weights.new_tensor(found.rows), "gains": weights.new_tensor(found.gains)}

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """Add both buffers, with their gains."""
        return latest + state["gains"] @ state["buffers"]

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Turn and shrink the buffers; the first takes in the applied update."""
        state["buffers"].copy_(state["rows"] @ state["buffers"])
        state["buffers"][0].add_(before - after)
        return after

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """Two; one at delay 1."""
        return float(min(delay, 2))
