"""Exact weights for the first updates, then another strategy's."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layerpipe2.errors import UserError, integer
from layerpipe2.strategies.base import OptimizerView, Place, State, Strategy


@dataclass(frozen=True)
class StashFirst(Strategy):
    """A warm-up: the backward pass reads ``used`` before update number ``updates``, what ``then`` gives from there on.

    Everywhere else ``then`` acts from the first update on, so that its average is full when it takes over.

    Attributes:
        then: the strategy that takes over.
        updates: number of updates with exact weights, counted from the last fill of the pipeline.

    Raises:
        UserError: if one of them is something else.
    """

    then: Strategy = field(kw_only=True)
    updates: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.then, Strategy):
            raise UserError(f"then is {self.then!r}; give the Strategy that takes over, as make_strategy('latest')")
        if isinstance(self.then, StashFirst):
            raise UserError("then is a StashFirst itself; give one, with the number of updates of both")
        integer(self.updates, "number of updates with exact weights", 0)

    @property
    def constants(self) -> tuple[str, ...]:
        """The number of updates, and the constants of ``then``."""
        return ("until", *self.then.constants)

    @property
    def kind(self) -> str:
        """The kinds of both."""
        return f"{type(self).__name__}, then {self.then.kind}"

    @property
    def changes_update(self) -> bool:
        """As ``then``."""
        return self.then.changes_update

    @property
    def fixed_lag(self) -> bool:
        """As ``then``."""
        return self.then.fixed_lag

    def acts(self, place: Place) -> bool:
        """Say whether it acts there: on the backward pass, and where ``then`` does."""
        return place == "backward" or self.then.acts(place)

    def init(self, weights: Tensor, delay: int) -> State:
        """The state of ``then``, and ``until`` (1,), the number of updates."""
        until = torch.full((1,), self.updates, dtype=torch.int64, device=weights.device)
        return {**self.then.init(weights, delay), "until": until}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """As ``then``."""
        return self.then.forward(state, latest, optimizer)

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """One or the other, chosen on the device: a CUDA graph of the step holds both."""
        return torch.where(state["step"] < state["until"], used, self.then.backward(state, latest, used))

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        """As ``then``."""
        return self.then.gradient(state, gradient, latest, used)

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """As ``then``."""
        return self.then.update(state, before, after)

    def copies(self, delay: int, **known: Any) -> float:
        """The larger of the two: the memory must be there in the beginning."""
        return max(float(delay), self.then.copies(delay, **known))
