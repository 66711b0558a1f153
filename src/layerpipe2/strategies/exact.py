"""Methods with the forward pass's own weights: all of them kept, all updates kept, and exact weights for a warm-up."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerpipe2.errors import UserError, integer
from layerpipe2.strategies.base import Consumes, State, WeightHistory


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


@dataclass(frozen=True)
class StashFirst(WeightHistory):
    """A warm-up: ``W(t - d)`` before update number ``updates``, what ``then`` recalls from there on.

    ``then`` records from the first update on, so that its average is full when it takes over.

    Attributes:
        then: the method that takes over.
        updates: number of updates with exact weights, counted from the last fill of the pipeline.

    Raises:
        UserError: if one of them is something else.
    """

    consumes: Consumes = field(default="nothing", init=False)
    then: WeightHistory = field(kw_only=True)
    updates: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.then, WeightHistory):
            raise UserError(f"then is {self.then!r}; give the WeightHistory that takes over, as make_history('latest')")
        integer(self.updates, "number of updates with exact weights", 0)
        object.__setattr__(self, "consumes", self.then.consumes)

    @property
    def keeps_weights(self) -> bool:
        """True: it begins as a stash."""
        return True

    @property
    def constants(self) -> tuple[str, ...]:
        """The number of updates, and the constants of ``then``."""
        return ("until", *self.then.constants)

    def init(self, weights: Tensor, delay: int) -> State:
        """The state of ``then``, and ``until`` (1,), the number of updates."""
        until = torch.full((1,), self.updates, dtype=torch.int64, device=weights.device)
        return {**self.then.init(weights, delay), "until": until}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """One or the other, chosen on the device: a CUDA graph of the step holds both."""
        return torch.where(step < state["until"], delayed, self.then.recall(state, latest, delayed, step))

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        """Show ``then`` the update."""
        self.then.record(state, update, step)

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """The larger of the two: the memory must be there in the beginning."""
        return max(float(delay), self.then.copies(delay, momentum_buffer=momentum_buffer))
