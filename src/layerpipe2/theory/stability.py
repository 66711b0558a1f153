"""Largest stable step of gradient descent with delayed gradients near a minimum, with momentum.

Delayed descent on ``f(w) = lambda w^2 / 2`` is ``w(t+1) = w(t) - eta lambda w(t-d)``. Its characteristic polynomial
``z^(d+1) - z^d + eta lambda`` leaves the unit disc first at ``z = exp(i pi / (2d+1))``, hence

    stable  iff  0 < eta lambda < 2 sin(pi / (2 (2d + 1)))

(Levin & May 1976; for delayed LMS: Long, Ling & Proakis 1989). With momentum m as in ``torch.optim.SGD``,
``v(t) = m v(t-1) + g(t)`` and ``w(t+1) = w(t) - eta v(t)``, it becomes ``z^d (z - 1)(z - m) + eta lambda z``, and with
Nesterov's form, ``w(t+1) = w(t) - eta (g(t) + m v(t))``, the last term is ``eta lambda ((1 + m) z - m)``.

Steps are given as ``eta lambda``, learning rate times curvature, without unit; delays in updates.

**Unequal delays.** In a pipeline the forward pass of mini-batch t reads coordinate j at ``w_j(t - d_j)``, and its
gradient is applied to the latest weights. So the *columns* of the Hessian are delayed, not its rows:

    w_k(t+1) = w_k(t) - eta sum_j H_kj w_j(t - d_j)

This holds for exact stashing on any loss. Where the residuals vanish it holds for every other strategy as well: the
gradients that travel back are then zero, and so is, to first order, whatever the backward pass multiplies them by.
Which weights the backward pass uses can decide stability only away from such a minimum. States stack ``w(t), w(t-1),
...``; the matrix that maps one to the next is block companion, and its spectral radius decides.

**One curvature for all.** Let H be positive semidefinite with largest eigenvalue ``lambda``. An eigenvector of the
above with root z, times its own ``H^(1/2)``, gives ``z - 1 = -eta sum_j a_j z^-d_j`` with ``a_j >= 0`` and
``sum_j a_j <= lambda``. On the unit circle, ``z = exp(i w)``, with momentum::

    2 sin(w / 2) i (1 - m exp(-i w)) = -eta sum_j a_j exp(-i w (d_j + 1/2)),  that is, with p the argument of 1 - m/z,
    sum_j a_j cos(w (d_j + 1/2) + p) = 0,   eta sum_j a_j sin(w (d_j + 1/2) + p) = 2 sin(w / 2) |1 - m exp(-i w)|

No cosine may be 0 or less before the largest delay's phase reaches pi / 2, and from that w on the right side is at
least its value there, since it grows with w: the bound of the largest delay alone. So ``eta lambda`` below *that* bound
is stable for every such H and all smaller delays (Nesterov's form divides both by ``1 + m - m / z``; the phase stays
positive, the modulus still grows). Sharper: if a mode has shares ``s_j = a_j / lambda``, its own polynomial decides.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerpipe2.errors import UserError, integer


def closed_form(delay: int, momentum: float = 0.0) -> float:
    """Return the largest stable ``eta lambda`` by the frequency at which the first pole leaves the unit circle.

    At ``z = exp(i w)`` the polynomial asks for ``eta lambda = -z^(d-1) (z - 1)(z - m)`` to be real and positive, that
    is ``(d - 1/2) w + arg(z - m) = pi / 2``. The left side grows with w from 0, so there is one such w in (0, pi], and
    ``eta lambda = 2 sin(w / 2) |z - m|`` there. Without momentum ``w = pi / (2d + 1)``: the bound of the module's text.

    Raises:
        UserError: on a delay or momentum out of range.

    >>> [round(closed_form(d), 6) for d in (0, 1, 2, 3, 14)]
    [2.0, 1.0, 0.618034, 0.445042, 0.108278]
    """
    _check(momentum, delay)
    low, high = 0.0, math.pi
    for _ in range(60):  # halvings: below the spacing of doubles
        w = (low + high) / 2
        phase = (delay - 0.5) * w + math.atan2(math.sin(w), math.cos(w) - momentum)
        low, high = (w, high) if phase < math.pi / 2 else (low, w)
    return 2 * math.sin(high / 2) * math.hypot(math.cos(high) - momentum, math.sin(high))


def growth(step: float, delay: int, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Return the factor per update by which errors grow at last: the characteristic polynomial's largest root.

    ``step`` is ``eta lambda``.
    """
    return shared_growth(step, [1.0], [delay], momentum, nesterov)


def shared_growth(
    step: float, shares: Sequence[float], delays: Sequence[int], momentum: float = 0.0, nesterov: bool = False
) -> float:
    """Return the same where shares ``s_j`` >= 0 of the curvature have delays: ``z^-d`` is ``sum_j s_j z^-d_j``."""
    polynomial = np.concatenate([np.polymul([1.0, -1.0], [1.0, -momentum]), np.zeros(max(delays))])
    newest = np.array([1.0 + momentum, -momentum] if nesterov else [1, 0])
    for share, delay in zip(shares, delays, strict=True):
        polynomial[delay + 1 : delay + 3] += share * step * newest
    return float(np.abs(np.roots(polynomial)).max())


def largest_stable_shared_step(
    shares: Sequence[float], delays: Sequence[int], momentum: float = 0.0, nesterov: bool = False
) -> float:
    """Return the largest ``eta lambda`` that converges if shares of one curvature have different delays.

    Never below :func:`largest_stable_step` of the largest delay (see the module's text, *one curvature for all*), and
    exact where the Hessian has rank one: ``s_j`` is then the square of the eigenvector's part in the stage.

    Args:
        shares: ``s_j`` >= 0 with sum 1.
        delays: ``d_j``, in updates.
        momentum: 0 <= m < 1.
        nesterov: Nesterov's form of momentum.

    Raises:
        UserError: on a delay or momentum out of range.

    >>> round(largest_stable_shared_step([1.0, 0.0], [1, 14]), 6), round(largest_stable_shared_step([0, 1], [1, 14]), 6)
    (1.0, 0.108278)
    """

    def is_stable(step: float) -> bool:
        return shared_growth(step, shares, delays, momentum, nesterov) < 1

    high = largest_stable_step(max(delays), momentum, nesterov)
    while is_stable(high):
        high *= 2
    return bisect_step(is_stable, high)


def largest_stable_step(delay: int, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Return the largest ``eta lambda`` below which training converges, for one delay.

    Found by bisection on the spectral radius; without momentum the tests compare it with :func:`closed_form`.

    Args:
        delay: updates between a forward pass and its update.
        momentum: 0 <= m < 1.
        nesterov: Nesterov's form of momentum.

    Raises:
        UserError: on a delay or momentum out of range.

    >>> round(largest_stable_step(14), 6), round(largest_stable_step(0, momentum=0.9), 6)
    (0.108278, 3.8)
    """
    _check(momentum, delay)
    return bisect_step(lambda step: growth(step, delay, momentum, nesterov) < 1, 2 * (1 + momentum))


def bisect_step(is_stable: Callable[[float], bool], high: float, precision: float = 1e-9) -> float:
    """Find the upper end of the interval of stable steps that begins at 0.

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


def coupled_growth(step: float, hessian: ArrayLike, delays: Sequence[int], momentum: float = 0.0) -> float:
    """Return the factor per update by which errors grow at last: the block companion matrix' spectral radius.

    Weights don't move along directions without curvature: each is an eigenvalue of 1, which is left out.

    Args:
        step: learning rate ``eta``.
        hessian: H (n, n).
        delays: delay of each of the n coordinates, in updates.
        momentum: of ``torch.optim.SGD``, 0 <= m < 1.

    Raises:
        UserError: on shapes that do not fit, or a delay or momentum out of range.
    """
    curvature = _square(hessian, len(delays))
    _check(momentum, *delays)
    n, depth = len(delays), max(1, *delays)
    companion = np.zeros((depth + 1, n, depth + 1, n))
    companion[0, :, 0] = (1 + momentum) * np.eye(n)
    companion[0, :, 1] = -momentum * np.eye(n)
    for j, delay in enumerate(delays):
        companion[0, :, delay, j] -= step * curvature[:, j]
    for age in range(depth):
        companion[age + 1, :, age] = np.eye(n)
    eigenvalues = np.linalg.eigvals(companion.reshape(n * (depth + 1), n * (depth + 1)))
    flat = n - int(np.linalg.matrix_rank(curvature))
    moving = np.argsort(np.abs(eigenvalues - 1))[flat:]
    return float(np.abs(eigenvalues[moving]).max())


def largest_stable_coupled_step(
    hessian: ArrayLike, delays: Sequence[int], momentum: float = 0.0, precision: float = 1e-9
) -> float:
    """Return the largest learning rate ``eta`` at which a pipeline converges; see :func:`coupled_growth`.

    Raises:
        UserError: on shapes that do not fit, a delay or momentum out of range, or if no step is stable.

    >>> round(largest_stable_coupled_step([[2.0, 0.0], [0.0, 1.0]], delays=[0, 3]), 6)   # min(2 / 2, 0.445042 / 1)
    0.445042
    """
    sharpest = float(np.abs(np.linalg.eigvals(_square(hessian, len(delays)))).max(initial=0.0))
    if sharpest == 0:
        raise UserError("hessian is zero; give one with curvature")
    high = 2 * (1 + momentum) / sharpest
    return bisect_step(lambda step: coupled_growth(step, hessian, delays, momentum) < 1, 2 * high, precision)


def linear_chain_hessian(weights: Sequence[float]) -> NDArray[np.float64]:
    """Return H (K, K) of ``(w_1 w_2 ... w_K - target)^2 / 2`` where it is zero: scalar layers in a row.

    With ``p`` the product of the weights, the output moves by ``p / w_k`` per unit of ``w_k``, and
    ``H_kj = p^2 / (w_k w_j)``, of rank one: only the product is determined by the data. No weight may be zero.
    """
    w = np.asarray(weights, dtype=float)
    slope = w.prod() / w
    hessian: NDArray[np.float64] = np.outer(slope, slope)
    return hessian


def _square(matrix: ArrayLike, size: int) -> NDArray[np.float64]:
    array = np.asarray(matrix, dtype=float)
    if size == 0 or array.shape != (size, size):
        what = f"hessian has shape {list(array.shape)} for {size} delays"
        raise UserError(f"{what}; give as many rows and columns as delays")
    return array


def _check(momentum: float, *delays: int) -> None:
    for delay in delays:
        integer(delay, "delay", 0)
    if not 0 <= momentum < 1:
        raise UserError(f"momentum is {momentum!r}; give a number with 0 <= momentum < 1")
