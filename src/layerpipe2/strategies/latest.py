"""No history at all."""

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.strategies.base import FromLatest, State
from layerpipe2.strategies.moments import Updates


@dataclass(frozen=True)
class Latest(FromLatest):
    """The backward pass reads ``W(t)``, whatever the forward pass read."""

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """``W(t)``."""
        return latest

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """Nothing is added to ``W(t)``."""
        return 0.0, 0.0, 0.0
