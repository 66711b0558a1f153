"""Moving averages of the updates; the package's text derives them and names what each decay stands for."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.strategies import sweeps
from layerpipe2.strategies.base import FromLatest, OptimizerView, State
from layerpipe2.strategies.moments import Updates


def least_squares_decay(span: int) -> float:
    """The decay ``b`` in [0, 1) whose ``n E`` has the least squared error for white updates: ``b^(n-1) (1 + b)^2 = 1``.

    In units of the window's variance the squared error is ``n (1 - b) / (1 + b) - 2 (1 - b^n) + 1``, and half its slope
    ``n (b^(n-1) - 1 / (1 + b)^2)`` changes its sign once. At n = 1, 2, 3, 4 the decay is 0, 0.466, 0.618 (the golden
    section) and 0.702; for large n it tends to ``1 - 2 ln 2 / n``. Newton's method on ``(n-1) ln b + 2 ln (1 + b)``,
    which is concave, rises from ``4^(-1/(n-1))``, which is too small since ``1 + b < 2``.
    """
    if span == 1:
        return 0.0
    before, decay = 0.0, 0.25 ** (1 / (span - 1))
    while decay > before:
        before = decay
        decay -= ((span - 1) * math.log(decay) + 2 * math.log1p(decay)) / ((span - 1) / decay + 2 / (1 + decay))
    return before


def window_decay(span: int) -> float:
    """``(n - 1) / n``."""
    return (span - 1) / span


def running_decay(span: int) -> float:
    """``n / (n + 1)``."""
    return span / (span + 1)


def span_decay(span: int) -> float:
    """``(n - 1) / (n + 1)``."""
    return (span - 1) / (span + 1)


DECAY_RULES: dict[str, Callable[[int], float]] = {
    "window": window_decay,
    "running": running_decay,
    "span": span_decay,
    "lsq": least_squares_decay,
}
"""Decay as a function of the span ``n``.

``window``: the newest update weighs 1/n, as in the exact window. ``running``: the recursion of a running mean that
already holds n values. ``span``: the same mean lag as the window, (n-1)/2, so no bias where the weights drift along a
line (exponential smoothing's span rule). ``lsq``: least squared error for white updates.
"""


@dataclass(frozen=True)
class MovingAverage(FromLatest):
    """``Ŵ = W(t) + n E(t)``, ``E <- beta(n) E + (1 - beta(n)) u``; see the package's text.

    Attributes:
        decay: the decay ``beta`` as a function of the span ``n`` >= 1, in [0, 1).

    Raises:
        UserError: if it is something else; on its values as soon as the delay is known.
    """

    decay: Callable[[int], float] = DECAY_RULES["window"]
    constants = ("gain",)

    def __post_init__(self) -> None:
        if not callable(self.decay):
            raise UserError(f"decay is {self.decay!r}; give a function of the span, as lambda n: {self.decay!r}")

    def init(self, weights: Tensor, delay: int) -> State:
        """``average`` E (N,), and the table ``gain`` (d + 1,) of ``1 - beta``.

        Entry j of the table belongs to update number j, and entry d to all later ones. Update j makes the span
        ``min(j + 1, d)``; the very first one starts the average.
        """
        gains = [1.0] + [1.0 - self._decay(min(j + 1, delay)) for j in range(1, delay + 1)]
        return {"average": torch.zeros_like(weights), "gain": weights.new_tensor(gains)}

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """``W(t) + n E(t)``, ``n`` the number of updates since the forward pass."""
        return sweeps.add(latest, state["average"], state["lag"])

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Move the average towards the applied update."""
        sweeps.move(state["average"], before, after, state["gain"], state["step"])
        return after

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """One, the average, whatever the delay."""
        return 1.0 if delay else 0.0

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """``n E = n (b A + (1 - b) u_0)``."""
        decay = self._decay(delay)
        return decay, delay * decay, delay * (1 - decay)

    def _decay(self, span: int) -> float:
        decay = self.decay(span)
        if not 0 <= decay < 1:
            raise UserError(f"decay of span {span} is {decay!r}; it must be >= 0 and < 1")
        return decay


@dataclass(frozen=True)
class RawAverage(MovingAverage):
    """The same of ``lr * gradient``, which is not the applied update with momentum, weight decay or Adam: a comparison.

    The learning rate is that at the forward pass which comes before the update.
    """

    def init(self, weights: Tensor, delay: int) -> State:
        """Make the average's state, and ``scaled`` (N,): the learning rates, then ``lr * gradient``."""
        return super().init(weights, delay) | {"scaled": torch.zeros_like(weights)}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """Note the learning rates."""
        state["scaled"].copy_(optimizer.rate())
        return latest

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        """Note ``lr * gradient``."""
        state["scaled"].mul_(gradient)
        return gradient

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Move the average towards ``lr * gradient``."""
        sweeps.move(state["average"], state["scaled"], torch.zeros_like(after), state["gain"], state["step"])
        return after

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """``n ((b - m) A + (1 - b) u_0)``, the updates' correlation taken for the optimizer's momentum ``m``.

        Not Nesterov's: ``lr g_i = u_i - m u_(i+1)``.
        """
        decay = self._decay(delay)
        return decay, delay * (decay - updates.correlation), delay * (1 - decay)
