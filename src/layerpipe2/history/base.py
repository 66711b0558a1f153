"""What a weight history is, and those that reconstruct nothing: exact stashing, latest weights, a window of updates.

The moving averages stand in ``average.py`` and ``pair.py``; a strategy's name becomes one of these in
:func:`layerpipe2.history.make_history`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

State = dict[str, Tensor]
Consumes = Literal["updates", "gradients", "nothing"]


@dataclass(frozen=True)
class WeightHistory(ABC):
    """A method of recalling ``W(t - d)``. ``step`` is ``t``, an int64 tensor of shape (1,), counted from the last fill.

    Attributes:
        consumes: what :meth:`record` takes: the applied ``updates``, ``gradients`` (``lr * gradient``) or ``nothing``.
        constants: entries of the state that never change: a checkpoint that differs in them is another method's.
    """

    consumes: Consumes = "nothing"
    constants: ClassVar[tuple[str, ...]] = ()

    @property
    def exact(self) -> bool:
        """Whether the recalled weights are those of the forward pass by definition: nothing has to be replaced."""
        return False

    @property
    def keeps_weights(self) -> bool:
        """Whether :meth:`recall` looks at ``delayed``: a real pipeline must then keep the last ``d`` weights."""
        return self.exact

    def init(self, weights: Tensor, delay: int) -> State:
        """State of a stage with flat weights (N,) and ``delay`` > 0 updates, before its first update."""
        return {}

    @abstractmethod
    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """Weights (N,) for the backward pass. ``latest`` is ``W(t)``.

        ``delayed`` is ``W(t - d)`` from the delay line: only methods that keep weights may look at it.
        """

    def record(self, state: State, update: Tensor, step: Tensor) -> None:  # noqa: B027 - nothing to record by default
        """Take in update number ``step``, ``W(t) - W(t+1)``; changes ``state`` in place (CUDA graphs need that)."""

    @abstractmethod
    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """Copies of the stage's weights that hardware must hold beside the latest ones and the optimizer's state.

        ``momentum_buffer`` says whether that state tells the newest update: SGD's momentum and Adam's moments do, plain
        SGD and Nesterov's form, whose update adds the gradient, do not.
        """


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
class Latest(WeightHistory):
    """No history: the backward pass uses ``W(t)``, whatever the forward pass used."""

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t)``."""
        return latest

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """None."""
        return 0.0


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
