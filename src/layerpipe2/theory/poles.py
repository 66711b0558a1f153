"""Two buffers instead of one: an average with a pair of complex poles, for updates that are white (plain SGD).

The window of ``n`` updates is a boxcar, which real poles follow badly: their kernels fall from the start. A pair of
complex poles ``z, conj(z)`` has kernels that stay up and then fall, at the same memory as the average and the newest
update of `pair`, whose poles are ``b`` and 0. With ``a <- z a + u``, ``a`` complex, that is two buffers, and

    Ŵ = W(t) + 2 Re(c a),   kernel  h_i = 2 Re(c z^i)

For white updates the squared error is ``sum_i (h_i - [i < n])^2 / n``, and with ``R = (1 - z^n) / (1 - z)``

    sum = n - 4 Re(c R) + 2 Re(c^2 / (1 - z^2)) + 2 |c|^2 / (1 - |z|^2)

which is least where ``c / (1 - z^2) + conj(c) / (1 - |z|^2) = R``. A constant drift is kept if ``2 Re(c q) = n``,
``q = 1 / (1 - z)``: then ``R + mu q`` stands in the place of ``R``. Both are linear in ``c``; ``z`` is found by search.
For long delays, with ``z = exp((-a + i w) / n)``: ``a = 1.511``, ``w = 1.826``, error 0.2933; without bias 1.599, 1.749
and 0.2955. `pair` tends to 0.4307, `ema-lsq` to 0.4395.

Updates 1 and 2 need no search: two buffers hold them as they are.
"""

import cmath
import math
from dataclasses import dataclass
from functools import cache

from layerpipe2.errors import UserError

_START, _STEP = (1.6, 1.75), 0.25


@dataclass(frozen=True)
class TwoPoles:
    """``(a, b) <- M (a, b) + (u, 0)`` and ``Ŵ = W(t) + x a + y b``.

    Attributes:
        rows: of ``M``.
        gains: ``x`` and ``y``.
        error: relative, for white updates.
    """

    rows: tuple[tuple[float, float], tuple[float, float]]
    gains: tuple[float, float]
    error: float


@cache
def two_poles(delay: int, unbiased: bool = True) -> TwoPoles:
    """Return the filter of least squared error for white updates.

    Args:
        delay: ``n`` >= 1, in updates.
        unbiased: whether a constant drift is to be recalled exactly.

    Raises:
        UserError: on another delay.

    >>> round(two_poles(16, unbiased=False).error, 4), round(two_poles(16).error, 4)
    (0.2921, 0.2943)
    """
    if delay < 1:
        raise UserError(f"delay is {delay}; give one of at least 1 update")
    if delay <= 2:
        return TwoPoles(((0.0, 0.0), (1.0, 0.0)), (1.0, delay - 1.0), 0.0)
    place, step = _START, _STEP
    while step > 1e-7:
        around = [(place[0] + i * step, place[1] + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        best = min((p for p in around if min(p) > 0), key=lambda p: _fitted(delay, _pole(delay, p), unbiased)[1])
        place, step = best, step / 2 if best == place else step
    z = _pole(delay, place)
    c, square = _fitted(delay, z, unbiased)
    rows = ((z.real, -z.imag), (z.imag, z.real))
    return TwoPoles(rows, (2 * c.real, -2 * c.imag), math.sqrt(square / delay))


def _pole(delay: int, place: tuple[float, float]) -> complex:
    return cmath.exp(complex(-place[0], place[1]) / delay)


def _fitted(n: int, z: complex, unbiased: bool) -> tuple[complex, float]:
    """The best ``c`` and the sum of squares that it leaves."""
    own, both = 1 / (1 - z * z), 1 / (1 - abs(z) ** 2)

    def solve(right: complex) -> complex:
        return (own.conjugate() * right - both * right.conjugate()) / (abs(own) ** 2 - both**2)

    window, mean = (1 - z**n) / (1 - z), 1 / (1 - z)
    c = solve(window)
    if unbiased:
        more = solve(mean)
        c += more * (n - 2 * (c * mean).real) / (2 * (more * mean).real)
    square = n - 4 * (c * window).real + 2 * (c * c * own).real + 2 * abs(c) ** 2 * both
    return c, max(0.0, square)
