"""The average and the newest update, weighted for the least squared reconstruction error of a model of the updates.

What is won if the decay or the gain alone is free: :mod:`layerpipe2.theory.optimal`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from layerpipe2.strategies.moments import Moments, Updates

_GRID, _STEPS = 80, 44


@dataclass(frozen=True)
class Estimator:
    """``Ŵ = W(t) + x A + y u_0`` with an average of this ``decay``; ``error`` is relative, as the probe's."""

    decay: float
    x: float
    y: float
    error: float

    @classmethod
    def of(cls, updates: Updates, delay: int, decay: float, x: float, y: float) -> "Estimator":
        """Find the best coefficients and the error that they have for these updates."""
        moments = Moments.of(updates, delay, decay)
        return cls(decay, x, y, math.sqrt(max(0.0, moments.squared_error(x, y)) / moments.window))


@lru_cache(maxsize=8192)
def optimal_pair(updates: Updates, delay: int) -> Estimator:
    """The best ``Ŵ = W(t) + x A + y u_0``. Exact for delays 1 and 2, where the window is ``u_0`` and ``u_1``."""

    def best(decay: float) -> Estimator:
        return Estimator.of(updates, delay, decay, *Moments.of(updates, delay, decay).best())

    return Estimator(0.0, delay - 1.0, 1.0, 0.0) if delay <= 2 else least(best, delay)


def least(at: Callable[[float], Estimator], delay: int) -> Estimator:
    """Least error over decays in [0, 1 - 1/(50 n)]: a grid in ``ln(1 - b)``, then golden sections; decay to 1e-7."""

    def decay(place: float) -> float:
        return -math.expm1(-place)

    top = math.log(50 * delay)
    best = min(range(_GRID + 1), key=lambda i: at(decay(top * i / _GRID)).error)
    low, high = top * max(0, best - 1) / _GRID, top * min(_GRID, best + 1) / _GRID
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if at(decay(left)).error <= at(decay(right)).error:
            high = right
        else:
            low = left
    ends = [at(decay(place)) for place in (low, (low + high) / 2, top * best / _GRID)]
    return min(ends, key=lambda estimator: estimator.error)
