"""Second moments of what a reconstruction adds up, for a model of the optimizer's updates: closed forms, no arrays.

With ``u_i`` the update of age ``i`` (``i = 0`` the newest), the backward pass of a stage with delay ``n`` needs the
window ``S = u_0 + ... + u_{n-1}``, since ``W(t - n) = W(t) + S``. A stage that keeps one average has two things to make
it from: the *lagged* average ``A = (1 - b) (u_1 + b u_2 + b^2 u_3 + ...)`` with decay ``b``, and ``u_0``::

    Ŵ = W(t) + x A + y u_0

An ordinary average ``E = (1 - b) u_0 + b A`` with gain ``g``, ``Ŵ = W(t) + g E``, is the case ``x = g b``,
``y = g (1 - b)``; an average of the *weights* spans the same (``W - average of W = b / (1 - b) E``). So the squared
error of every such method is one quadratic form in ``(x, y)``, whose six coefficients stand in :class:`Moments`.

The sums. With autocovariance ``m^|k|`` and ``V`` denoting variances, ``C`` covariances::

    V(E) = V(A) = (1 - b)^2 sum_ij b^(i+j) m^|i-j| = (1 - b) (1 + b m) / ((1 + b) (1 - b m))
    C(A, u_0)   = (1 - b) sum_{i>=1} b^(i-1) m^i = m (1 - b) / (1 - b m)
    C(u_0, S)   = (1 - m^n) / (1 - m)
    V(S)        = n (1 + m) / (1 - m) - 2 m (1 - m^n) / (1 - m)^2
    C(E, S_n)   = (1 - b) sum_{i>=0} b^i sum_{j<n} m^|i-j|, the inner sum being
                  (1 + m - m^(i+1) - m^(n-i)) / (1 - m)  for i < n  and  m^(i-n+1) (1 - m^n) / (1 - m)  for i >= n
    C(A, S_n)   = C(A, u_0) + C(E, S_(n-1)),  the process being stationary
"""

from __future__ import annotations

from dataclasses import dataclass

from layerpipe2.errors import UserError


@dataclass(frozen=True)
class Updates:
    """A model of one weight's updates: a mean that drifts along a line, plus stationary noise.

    The update of age ``i`` has mean ``drift - ramp * i`` and autocovariance ``m^|k| + white * [k == 0]``: an AR(1)
    process and white noise. Plain SGD with white gradients is ``m = 0``; SGD with momentum ``m`` and white gradients
    is ``m`` itself, its update being the momentum buffer; Nesterov's are :func:`layerpipe2.theory.optimal.nesterov`.
    Units: the standard deviation of the AR(1) part is 1.

    Attributes:
        correlation: ``m`` in (-1, 1).
        white: variance of the white part; negative where the newest update varies less than AR(1) has it.
        drift: mean of the newest update.
        ramp: growth of the mean per update.

    Raises:
        UserError: if ``m`` is out of range, or the variance is not positive.
    """

    correlation: float = 0.0
    white: float = 0.0
    drift: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not -1 < self.correlation < 1:
            raise UserError(f"correlation of the updates is {self.correlation}; give a number between -1 and 1")
        if not self.white > -1:
            raise UserError(f"white part of the updates has variance {self.white}; give a number above -1")

    def covariance(self, lag: int) -> float:
        """Autocovariance at ``lag``."""
        return self.correlation ** abs(lag) + (self.white if lag == 0 else 0.0)

    def mean(self, age: float) -> float:
        """Mean of the update of ``age``."""
        return self.drift - self.ramp * age


@dataclass(frozen=True)
class Moments:
    """Mean products of the lagged average ``A``, the newest update ``u`` and the window ``S``; see the module's text.

    Attributes:
        average, newest, window: mean squares of A, u, S.
        average_newest, average_window, newest_window: mean products.
    """

    average: float
    newest: float
    window: float
    average_newest: float
    average_window: float
    newest_window: float

    @classmethod
    def of(cls, updates: Updates, delay: int, decay: float) -> Moments:
        """Derive them for an average with ``decay`` in [0, 1) that has run for ever, and a window of ``delay`` >= 1.

        Raises:
            UserError: if delay or decay is out of range.
        """
        if delay < 1 or not 0 <= decay < 1:
            raise UserError(f"delay {delay} and decay {decay}: give a delay of at least 1 and a decay in [0, 1)")
        n, b, m, white = delay, decay, updates.correlation, updates.white
        mean_a, mean_u = updates.mean(1 / (1 - b)), updates.drift
        mean_s = n * updates.mean((n - 1) / 2)
        cross = m * (1 - b) / (1 - b * m)
        return cls(
            average=_average(b, m) + white * _average(b, 0.0) + mean_a**2,
            newest=1 + white + mean_u**2,
            window=_window(n, m) + white * n + mean_s**2,
            average_newest=cross + mean_a * mean_u,
            average_window=cross + _average_window(n - 1, b, m) + white * (1 - b ** (n - 1)) + mean_a * mean_s,
            newest_window=(1 - m**n) / (1 - m) + white + mean_u * mean_s,
        )

    def squared_error(self, x: float, y: float) -> float:
        """Mean of ``(x A + y u - S)^2``."""
        own = x * x * self.average + 2 * x * y * self.average_newest + y * y * self.newest
        return own - 2 * x * self.average_window - 2 * y * self.newest_window + self.window

    def best(self) -> tuple[float, float]:
        """``(x, y)`` of least squared error: the normal equations of two unknowns."""
        det = self.average * self.newest - self.average_newest**2
        x = (self.average_window * self.newest - self.newest_window * self.average_newest) / det
        y = (self.newest_window * self.average - self.average_window * self.average_newest) / det
        return x, y


def _average(b: float, m: float) -> float:
    return (1 - b) * (1 + b * m) / ((1 + b) * (1 - b * m))


def _window(n: int, m: float) -> float:
    return n * (1 + m) / (1 - m) - 2 * m * (1 - m**n) / (1 - m) ** 2


def _average_window(n: int, b: float, m: float) -> float:
    body = (1 - b**n) * (1 + m) - (1 - b) * m * (1 - (b * m) ** n) / (1 - b * m) - (1 - b) * m * _mixed(n, b, m)
    return (body + (1 - b) * b**n * m * (1 - m**n) / (1 - b * m)) / (1 - m)


def _mixed(n: int, b: float, m: float) -> float:
    """``sum_{i<n} b^i m^(n-1-i)``."""
    if abs(m - b) < 1e-3:  # the quotient would cancel
        return float(sum(b**i * m ** (n - 1 - i) for i in range(n)))
    return float((m**n - b**n) / (m - b))
