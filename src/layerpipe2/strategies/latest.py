"""No history at all."""

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.strategies.base import State, WeightHistory
from layerpipe2.strategies.moments import Updates


@dataclass(frozen=True)
class Latest(WeightHistory):
    """No history: the backward pass uses ``W(t)``, whatever the forward pass used."""

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t)``."""
        return latest

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """None."""
        return 0.0

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """Nothing is added to ``W(t)``."""
        return 0.0, 0.0, 0.0
