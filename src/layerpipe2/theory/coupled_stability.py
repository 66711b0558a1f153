"""Stability of a pipeline whose stages have unequal delays, near a minimum.

In a pipeline the forward pass of mini-batch t reads coordinate j at ``w_j(t - d_j)``, and its gradient is applied to
the latest weights. So the *columns* of the Hessian are delayed, not its rows:

    w_k(t+1) = w_k(t) - eta sum_j H_kj w_j(t - d_j)

This holds for exact stashing on any loss. Where the residuals vanish it holds for every other strategy as well: the
gradients that travel back are then zero, and so is, to first order, whatever the backward pass multiplies them by.
Which weights the backward pass uses can decide stability only away from such a minimum.

States stack ``w(t), w(t-1), ...``; the matrix that maps one to the next is block companion, and its spectral radius
decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerpipe2.errors import UserError, integer
from layerpipe2.theory.stability import PRECISION, bisect_step, check_momentum

Matrix = NDArray[np.float64]


def coupled_growth(step: float, hessian: ArrayLike, delays: Sequence[int], momentum: float = 0.0) -> float:
    """Factor per update by which errors grow in the long run: the spectral radius of the block companion matrix.

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
    depth = max(1, *(integer(delay, "delay", 0) for delay in delays))
    check_momentum(momentum)
    n = len(delays)
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
    hessian: ArrayLike, delays: Sequence[int], momentum: float = 0.0, precision: float = PRECISION
) -> float:
    """Largest learning rate ``eta`` below which a pipeline with these delays converges; see :func:`coupled_growth`.

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


def linear_chain_hessian(weights: Sequence[float], scale: float = 1.0) -> Matrix:
    """H (K, K) of ``(scale * w_1 w_2 ... w_K - target)^2 / 2`` where it is zero: scalar layers in a row.

    With ``p`` the product of the weights, the output moves by ``scale p / w_k`` per unit of ``w_k``, and
    ``H_kj = scale^2 p^2 / (w_k w_j)``, of rank one: only the product is determined by the data.

    Args:
        weights: one scalar per layer, none zero.
        scale: root mean square of the inputs.
    """
    w = np.asarray(weights, dtype=float)
    slope = scale * w.prod() / w
    hessian: Matrix = np.outer(slope, slope)
    return hessian


def _square(matrix: ArrayLike, size: int) -> Matrix:
    array = np.asarray(matrix, dtype=float)
    if size == 0 or array.shape != (size, size):
        raise UserError(
            f"hessian has shape {list(array.shape)} for {size} delays; give as many rows and columns as delays"
        )
    return array
