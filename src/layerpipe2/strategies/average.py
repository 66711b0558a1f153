"""Moving averages of the updates; the package's text derives them and names what each decay stands for."""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.strategies.base import Consumes, Dash, State, Strategy, WeightHistory
from layerpipe2.strategies.moments import Updates

DECAY_RULES: dict[str, Callable[[int], float]] = {
    "window": lambda n: (n - 1) / n,
    "running": lambda n: n / (n + 1),
    "span": lambda n: (n - 1) / (n + 1),
    "lsq": lambda n: max(0.0, 1 - 2 * math.log(2) / n),
}
"""Decay as a function of the span ``n``.

``window``: the newest update weighs 1/n, as in the exact window. ``running``: the recursion of a running mean that
already holds n values. ``span``: the same mean lag as the window, (n-1)/2, so no bias where the weights drift along a
line (exponential smoothing's span rule). ``lsq``: least squared error for white updates at large n.
"""


@dataclass(frozen=True)
class MovingAverage(WeightHistory):
    """``Ŵ = W(t) + n E(t)``, ``E <- beta(n) E + (1 - beta(n)) u``; see the module's text.

    Attributes:
        consumes: ``updates``, or ``gradients`` for the raw form.
        decay: the decay ``beta`` as a function of the span ``n`` >= 1, in [0, 1).

    Raises:
        UserError: if one of them is something else; on the decay's values as soon as the delay is known.
    """

    consumes: Consumes = "updates"
    decay: Callable[[int], float] = DECAY_RULES["window"]

    def __post_init__(self) -> None:
        if self.consumes not in ("updates", "gradients"):
            raise UserError(f"consumes is {self.consumes!r}; a moving average takes 'updates' or 'gradients'")
        if not callable(self.decay):
            raise UserError(f"decay is {self.decay!r}; give a function of the span, as lambda n: {self.decay!r}")

    @property
    def constants(self) -> tuple[str, ...]:
        """The table of gains."""
        return ("gain",)

    def init(self, weights: Tensor, delay: int) -> State:
        """``average`` E (N,), and the table ``gain`` (d + 1,) of ``1 - beta``.

        Entry j of the table belongs to update number j, and entry d to all later ones. Update j makes the span
        ``min(j + 1, d)``; the very first one starts the average.
        """
        gains = [1.0] + [1.0 - self._decay(min(j + 1, delay)) for j in range(1, delay + 1)]
        return {"average": torch.zeros_like(weights), "gain": weights.new_tensor(gains)}

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t) + min(t, d) E(t)``."""
        span = step.clamp(max=len(state["gain"]) - 1)
        return torch.addcmul(latest, state["average"], span.to(latest.dtype))

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        """Move the average towards ``update``."""
        number = step.clamp(max=len(state["gain"]) - 1)
        state["average"].lerp_(update, state["gain"].index_select(0, number))

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """One, the average, whatever the delay."""
        return 1.0 if delay else 0.0

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """``n E = n (b A + (1 - b) u_0)``; of ``lr * gradient``, ``n ((b - m) A + (1 - b) u_0)``.

        The latter takes the updates' correlation for the optimizer's momentum ``m`` (not Nesterov's):
        ``lr g_i = u_i - m u_(i+1)``.
        """
        decay = self._decay(delay)
        lost = updates.correlation if self.consumes == "gradients" else 0.0
        return decay, delay * (decay - lost), delay * (1 - decay)

    def _decay(self, span: int) -> float:
        decay = self.decay(span)
        if not 0 <= decay < 1:
            raise UserError(f"decay of span {span} is {decay!r}; it must be >= 0 and < 1")
        return decay


def fixed_average(text: str) -> Strategy:
    """The row of ``ema-<decay>``; a longer memory is darker, from Okabe and Ito's reddish purple at 0.9."""
    decay = float(text)
    light = 0.30 + 0.40 * (1.0 - decay) ** 0.2 / 0.1**0.2
    rgb = colorsys.hls_to_rgb(0.909, min(light, 0.85), 0.48)
    return Strategy(
        name=f"ema-{text}",
        label=f"EMA {text}",
        description="moving average of the applied updates, fixed decay (any number in (0, 1))",
        family="average",
        make=lambda: MovingAverage(decay=lambda n: decay),
        colour="#" + "".join(f"{round(255 * part):02x}" for part in rgb),
        marker="<",
        dash=(0, (2, 1, 1, 1)),
        order=4 + decay / 10,
    )


def ruled_average(rule: str, formula: str, colour: str, marker: str, dash: Dash, order: int) -> Strategy:
    """The row of a decay that follows from the delay: a key of :data:`DECAY_RULES`."""
    return Strategy(
        name=f"ema-{rule}",
        label=f"EMA {rule}",
        description=f"pipeline-aware moving average, decay {formula}",
        family="average",
        make=lambda: MovingAverage(decay=DECAY_RULES[rule]),
        aware=True,
        colour=colour,
        marker=marker,
        dash=dash,
        order=order,
    )
