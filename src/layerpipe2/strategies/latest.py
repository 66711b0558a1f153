"""No history at all."""

from dataclasses import dataclass

from torch import Tensor

from layerpipe2.strategies.base import State, Strategy
from layerpipe2.strategies.moments import Updates


@dataclass(frozen=True)
class Latest(Strategy):
    """The backward pass reads ``W(t)``, whatever the forward pass read."""

    @property
    def needs_used(self) -> bool:
        """False."""
        return False

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """``W(t)``."""
        return latest

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """Nothing is added to ``W(t)``."""
        return 0.0, 0.0, 0.0
