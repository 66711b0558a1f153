"""Largest stable step of gradient descent with delayed gradients on a quadratic, with momentum.

Delayed descent on ``f(w) = lambda w^2 / 2`` is ``w(t+1) = w(t) - eta lambda w(t-d)``. Its characteristic polynomial
``z^(d+1) - z^d + eta lambda`` leaves the unit disc first at ``z = exp(i pi / (2d+1))``, hence

    stable  iff  0 < eta lambda < 2 sin(pi / (2 (2d + 1)))

(Levin & May 1976; for delayed LMS: Long, Ling & Proakis 1989). With momentum m as in ``torch.optim.SGD``,
``v(t) = m v(t-1) + g(t)`` and ``w(t+1) = w(t) - eta v(t)``, it becomes ``z^d (z - 1)(z - m) + eta lambda z``, and with
Nesterov's form, ``w(t+1) = w(t) - eta (g(t) + m v(t))``, the last term is ``eta lambda ((1 + m) z - m)``.

Steps are given as ``eta lambda``, learning rate times curvature, without unit; delays in updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError, integer

PRECISION = 1e-9
"""Relative precision of the largest stable steps that are found by bisection."""


def closed_form(delay: int, momentum: float = 0.0) -> float:
    """Largest stable ``eta lambda`` by the frequency at which the first pole leaves the unit circle.

    At ``z = exp(i w)`` the polynomial asks for ``eta lambda = -z^(d-1) (z - 1)(z - m)`` to be real and positive, that
    is ``(d - 1/2) w + arg(z - m) = pi / 2``. The left side grows with w from 0, so there is one such w in (0, pi], and
    ``eta lambda = 2 sin(w / 2) |z - m|`` there. Without momentum ``w = pi / (2d + 1)``: the bound of the module's text.

    Raises:
        UserError: on a delay or momentum out of range.

    >>> [round(closed_form(d), 6) for d in (0, 1, 2, 3, 14)]
    [2.0, 1.0, 0.618034, 0.445042, 0.108278]
    """
    integer(delay, "delay", 0)
    check_momentum(momentum)
    low, high = 0.0, math.pi
    for _ in range(60):  # halvings: below the spacing of doubles
        w = (low + high) / 2
        phase = (delay - 0.5) * w + math.atan2(math.sin(w), math.cos(w) - momentum)
        low, high = (w, high) if phase < math.pi / 2 else (low, w)
    return 2 * math.sin(high / 2) * math.hypot(math.cos(high) - momentum, math.sin(high))


def characteristic(step: float, delay: int, momentum: float = 0.0, nesterov: bool = False) -> NDArray[np.float64]:
    """Coefficients (d + 3,) of the characteristic polynomial, highest power first; ``step`` is ``eta lambda``."""
    loop = np.polymul([1.0, -1.0], [1.0, -momentum])
    gradient = [1.0 + momentum, -momentum] if nesterov else [1.0, 0.0]
    coefficients = np.concatenate([loop, np.zeros(delay)])
    coefficients[-2:] += step * np.array(gradient)
    return coefficients


def growth(step: float, delay: int, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Factor per update by which errors grow in the long run: the spectral radius of the companion matrix."""
    return float(np.abs(np.roots(characteristic(step, delay, momentum, nesterov))).max())


def largest_stable_step(
    delay: int, momentum: float = 0.0, nesterov: bool = False, precision: float = PRECISION
) -> float:
    """Largest ``eta lambda`` below which training converges, for one delay.

    Found by bisection on the spectral radius; without momentum the tests compare it with :func:`closed_form`.

    Args:
        delay: updates between a forward pass and its update.
        momentum: 0 <= m < 1.
        nesterov: Nesterov's form of momentum.
        precision: relative precision of the result.

    Raises:
        UserError: on a delay or momentum out of range.

    >>> round(largest_stable_step(14), 6), round(largest_stable_step(0, momentum=0.9), 6)
    (0.108278, 3.8)
    """
    integer(delay, "delay", 0)
    check_momentum(momentum)
    return bisect_step(lambda step: growth(step, delay, momentum, nesterov) < 1, 2 * (1 + momentum), precision)


def bisect_step(is_stable: Callable[[float], bool], high: float, precision: float = PRECISION) -> float:
    """Upper end of the interval of stable steps that begins at 0.

    Args:
        is_stable: test of a step > 0.
        high: a step at or beyond that end; halved until a stable one is met, whose double is then the upper bracket.
        precision: relative precision of the result.

    Raises:
        UserError: if not even a step of ``1e-12 high`` is stable.
    """
    low = high
    while not is_stable(low):
        low /= 2
        if low < 1e-12 * high:
            raise UserError(f"no stable step found between {low:g} and {high:g}; the curvature must be positive")
    if low == high:
        return high
    high = 2 * low
    while high - low > precision * low:
        middle = (low + high) / 2
        low, high = (middle, high) if is_stable(middle) else (low, middle)
    return (low + high) / 2


def check_momentum(momentum: float) -> float:
    """The momentum, if it is one.

    Raises:
        UserError: if it is not in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise UserError(f"momentum is {momentum!r}; give a number with 0 <= momentum < 1")
    return momentum
