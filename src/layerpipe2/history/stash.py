"""Exact weight stashing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.history.base import State, WeightHistory


@dataclass(frozen=True)
class Stash(WeightHistory):
    """Exact weight stashing (PipeDream): keeps ``W(t - d) ... W(t - 1)``."""

    @property
    def exact(self) -> bool:
        """True: the backward pass uses the forward pass's own weights."""
        return True

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t - d)`` itself."""
        return delayed

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """One copy per update of delay."""
        return float(delay)
