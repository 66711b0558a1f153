"""The decays, gains and weights of least squared reconstruction error, for a model of the updates.

Three methods of growing freedom, in the terms of :mod:`layerpipe2.strategies.moments`:

- :func:`optimal_decay`: ``Ŵ = W + n E``, the decay free: the moving averages of the paper.
- :func:`optimal_gain`: ``Ŵ = W + g E``, the gain ``g`` free as well.
- :func:`optimal_pair`: ``Ŵ = W + x A + y u_0``, average and newest update weighted freely.

**White updates, large n.** With ``b = 1 - z/n`` the closed forms tend, in units of the window's variance ``n``, to
``n^2 V(E) = z/2``, ``n C(E, S) = 1 - e^-z``. So the squared error with gain ``c n`` is
``1 - 2 c (1 - e^-z) + c^2 z/2``.
With ``c = 1`` it is least where ``2 e^-z = 1/2``: ``z = 2 ln 2``, error ``sqrt(ln 2 - 1/2) = 0.4395``: the rule `lsq`.
(window and running, z = 1: ``sqrt(2/e - 1/2) = 0.4855``; span, z = 2: ``sqrt(2) / e = 0.5203``.) With ``c`` free,
``c = 2 (1 - e^-z) / z`` leaves ``1 - 2 (1 - e^-z)^2 / z``, least where ``e^z = 1 + 2 z``: ``z = 1.2564``,
``c = 1.1387``, error 0.4307. The best gain is *above* one: a shorter memory, amplified; and it wins 2 per cent.

**Correlated updates.** A window much longer than ``1/(1-m)`` sees AR(1) noise as white noise, and the newest update as
one of many: all three tend to the limits above. A window that is not, as with momentum 0.9 and the delays of real
pipelines, sees smooth updates, whose trend the newest one tells: there the pair wins most.
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


def ordinary(updates: Updates, delay: int, decay: float, gain: float) -> Estimator:
    """``Ŵ = W(t) + gain * E``, ``E`` the ordinary average."""
    return _estimator(updates, delay, decay, gain * decay, gain * (1 - decay))


def optimal_decay(updates: Updates, delay: int) -> Estimator:
    """The best ``Ŵ = W(t) + n E``."""
    return _least(lambda decay: ordinary(updates, delay, decay, delay), delay)


def optimal_gain(updates: Updates, delay: int) -> Estimator:
    """The best ``Ŵ = W(t) + g E``; the gain is ``x + y``."""

    def best(decay: float) -> Estimator:
        return ordinary(updates, delay, decay, Moments.of(updates, delay, decay).best_gain(decay))

    return _least(best, delay)


@lru_cache(maxsize=8192)
def optimal_pair(updates: Updates, delay: int) -> Estimator:
    """The best ``Ŵ = W(t) + x A + y u_0``. Exact for delays 1 and 2, where the window is ``u_0`` and ``u_1``."""

    def best(decay: float) -> Estimator:
        return _estimator(updates, delay, decay, *Moments.of(updates, delay, decay).best())

    return Estimator(0.0, delay - 1.0, 1.0, 0.0) if delay <= 2 else _least(best, delay)


def _estimator(updates: Updates, delay: int, decay: float, x: float, y: float) -> Estimator:
    moments = Moments.of(updates, delay, decay)
    return Estimator(decay, x, y, math.sqrt(max(0.0, moments.squared_error(x, y)) / moments.window))


def _least(at: Callable[[float], Estimator], delay: int) -> Estimator:
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
