"""An exact window of the applied updates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.history.base import Consumes, State, WeightHistory


@dataclass(frozen=True)
class UpdateWindow(WeightHistory):
    """The identity itself: keeps the last ``d`` applied updates; equals stashing to rounding, at its memory cost."""

    consumes: Consumes = "updates"

    def init(self, weights: Tensor, delay: int) -> State:
        """``updates`` (d, N): row ``t mod d`` is the newest one."""
        return {"updates": weights.new_zeros(delay, weights.numel())}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t)`` plus the sum of the last ``min(t, d)`` updates."""
        return latest + state["updates"].sum(0)

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        """Put ``update`` in the oldest one's place."""
        state["updates"].index_copy_(0, step.remainder(len(state["updates"])), update[None])

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """One copy per update of delay."""
        return float(delay)
