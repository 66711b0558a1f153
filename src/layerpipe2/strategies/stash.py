"""Exact weights: all of them kept, or all updates."""

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.strategies.base import FromLatest, State, Strategy


@dataclass(frozen=True)
class Stash(Strategy):
    """Exact weight stashing (PipeDream): the backward pass reads what the forward pass read. Every place's default."""


@dataclass(frozen=True)
class UpdateWindow(FromLatest):
    """The identity itself: keeps the last ``d`` applied updates; equals stashing to rounding, at its memory cost."""

    fixed_lag = True

    def init(self, weights: Tensor, delay: int) -> State:
        """``updates`` (d, N): row ``t mod d`` is the newest one."""
        return {"updates": weights.new_zeros(delay, weights.numel())}

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """``W(t)`` plus the sum of the last ``min(t, d)`` updates."""
        return latest + state["updates"].sum(0)

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Put the update in the oldest one's place."""
        row = state["step"].remainder(len(state["updates"]))
        state["updates"].index_copy_(0, row, (before - after)[None])
        return after
