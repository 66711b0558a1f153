"""Weights between those of the forward pass and the latest ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.strategies import State, Strategy


@dataclass(frozen=True)
class Mixed(Strategy):
    """``(1 - share) W(t - d) + share W(t)``, exact at both ends; it needs the stash and is no way to save memory.

    Attributes:
        share: of the latest weights; negative: beyond the old ones.
    """

    share: float

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """The old weights moved towards the latest ones."""
        return torch.lerp(used, latest, self.share)
