"""The decays and gains of least squared reconstruction error, for a model of the updates: what each freedom wins.

Three methods of growing freedom, in the terms of :mod:`layerpipe2.strategies.moments`:

- :func:`optimal_decay`: ``Ŵ = W + n E``, the decay free: the moving averages of the paper.
- :func:`optimal_gain`: ``Ŵ = W + g E``, the gain ``g`` free as well.
- :func:`layerpipe2.strategies.optimal.optimal_pair`: ``Ŵ = W + x A + y u_0``, both weighted freely.

**White updates.** The best decay is the rule `lsq`, :func:`layerpipe2.strategies.average.least_squares_decay`.

**White updates, large n.** With ``b = 1 - z/n`` the closed forms tend, in units of the window's variance ``n``, to
``n^2 V(E) = z/2``, ``n C(E, S) = 1 - e^-z``. So the squared error with gain ``c n`` is
``1 - 2 c (1 - e^-z) + c^2 z/2``.
With ``c = 1`` it is least where ``2 e^-z = 1/2``: ``z = 2 ln 2``, error ``sqrt(ln 2 - 1/2) = 0.4395``.
(window and running, z = 1: ``sqrt(2/e - 1/2) = 0.4855``; span, z = 2: ``sqrt(2) / e = 0.5203``.) With ``c`` free,
``c = 2 (1 - e^-z) / z`` leaves ``1 - 2 (1 - e^-z)^2 / z``, least where ``e^z = 1 + 2 z``: ``z = 1.2564``,
``c = 1.1387``, error 0.4307. The best gain is *above* one: a shorter memory, amplified; and it wins 2 per cent.

**Correlated updates.** A window much longer than ``1/(1-m)`` sees AR(1) noise as white noise, and the newest update as
one of many: all three tend to the limits above. A window that is not, as with momentum 0.9 and the delays of real
pipelines, sees smooth updates, whose trend the newest one tells: there the pair wins most.
"""

from layerpipe2.errors import UserError
from layerpipe2.strategies.moments import Moments, Updates
from layerpipe2.strategies.optimal import Estimator, least


def ordinary(updates: Updates, delay: int, decay: float, gain: float) -> Estimator:
    """Estimate by ``Ŵ = W(t) + gain * E``, ``E`` the ordinary average."""
    return Estimator.of(updates, delay, decay, gain * decay, gain * (1 - decay))


def optimal_decay(updates: Updates, delay: int) -> Estimator:
    """Return the best ``Ŵ = W(t) + n E``."""
    return least(lambda decay: ordinary(updates, delay, decay, delay), delay)


def optimal_gain(updates: Updates, delay: int) -> Estimator:
    """Return the best ``Ŵ = W(t) + g E``; the gain is ``x + y``."""

    def best(b: float) -> Estimator:
        moments, c = Moments.of(updates, delay, b), 1 - b
        product = c * moments.newest_window + b * moments.average_window
        square = c * c * moments.newest + 2 * b * c * moments.average_newest + b * b * moments.average
        return ordinary(updates, delay, b, product / square)

    return least(best, delay)


def nesterov(momentum: float) -> Updates:
    """Model the updates of SGD with Nesterov momentum ``m`` > 0 and white gradients ``g``.

    The update is ``g + m v`` with ``v = g + m v_before``: ``(1 + m) g_0 + m^2 g_1 + m^3 g_2 + ...``. Its
    autocovariance is ``m^k a`` for ``k >= 1``, with ``a = m (1 + m) + m^4 / (1 - m^2)``, and
    ``(1 + m)^2 + m^4 / (1 - m^2)`` at 0.

    Raises:
        UserError: if the momentum is out of range.
    """
    if not 0 < momentum < 1:
        raise UserError(f"Nesterov momentum is {momentum}; give a number between 0 and 1")
    tail = momentum**4 / (1 - momentum**2)
    return Updates(momentum, ((1 + momentum) ** 2 + tail) / (momentum * (1 + momentum) + tail) - 1)
