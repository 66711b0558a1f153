"""Growth of errors measured with the training engine itself, for comparison with the theory of stability."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerpipe2.delays import Delays
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import make_strategy

Vector = NDArray[np.float64]


class Scales(nn.Module):
    """Multiplies its input (B, n) by one weight per element: ``n`` quadratics, or ``n`` chains, side by side."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, element by element."""
        return x * self.weight


def quadratic_growth(steps: Sequence[float] | Vector, delay: int, momentum: float = 0.0, updates: int = 800) -> Vector:
    """Measure the growth per update of delayed descent on many quadratics at once, from w = 1.

    A stage with weights w, fed with ``sqrt(step)`` and with loss ``sum of y^2 / 2``, has the curvature ``step`` in
    each weight; the learning rate is 1. The weights do not see each other.

    Args:
        steps: values of ``eta lambda`` (n,).
        delay: of the stage, in updates.
        momentum: of ``torch.optim.SGD``.
        updates: number of mini-batches.

    Returns:
        Growth factors (n,).
    """
    curvature = torch.tensor(steps, dtype=torch.float64)
    x = curvature.sqrt()[None]
    errors = _errors([Scales(torch.ones_like(curvature))], [delay], "stash", x, 0 * x, momentum, updates)
    return _growth(errors, delay, floor=1e-300)


def chain_growth(
    weights: Sequence[float],
    delays: Sequence[int],
    steps: Sequence[float] | Vector,
    *,
    strategy: str = "stash",
    momentum: float = 0.0,
    updates: int = 800,
) -> Vector:
    """Measure the growth per update of pipelined scalar linear networks, from close to a minimum of loss 0.

    All learning rates ``steps`` run side by side in one engine: a network that is fed with ``sqrt(s)`` behaves with
    learning rate 1 as one that is fed with 1 does with learning rate s.

    Args:
        weights: one scalar per stage, at the minimum.
        delays: of the stages, in updates.
        steps: learning rates (n,).
        strategy: weight history of the backward pass.
        momentum: of ``torch.optim.SGD``.
        updates: number of mini-batches.

    Returns:
        Growth factors (n,) of the residuals.
    """
    x = torch.tensor(steps, dtype=torch.float64).sqrt()[None]
    stages = [Scales(torch.full((x.shape[1],), w, dtype=torch.float64)) for w in weights]
    target = x * float(np.prod(weights)) * (1 + 1e-6)  # small, for the linear range, and far above rounding
    errors = _errors(stages, delays, strategy, x, target, momentum, updates)
    return _growth(errors, max(delays), floor=1e-14 * float(target.max()))


def _errors(
    stages: Sequence[Scales], delays: Sequence[int], strategy: str, x: Tensor, y: Tensor, momentum: float, updates: int
) -> Vector:
    """Return residuals (updates, n) while training on one mini-batch again and again, learning rate 1."""
    engine = PipelineEngine(stages, Delays.custom(delays), make_strategy(strategy))
    optimizer = torch.optim.SGD([p for stage in stages for p in stage.parameters()], lr=1.0, momentum=momentum)

    def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * ((outputs - targets) ** 2).sum()

    residuals = [engine.train_step(x, y, half_square, optimizer)[1][0] - y[0] for _ in range(updates)]
    errors: Vector = torch.stack(residuals).abs().numpy()
    return errors


def _growth(errors: Vector, delay: int, floor: float) -> Vector:
    """Return the growth per update of every column of ``errors``, once fast decaying parts have died out.

    Compares the largest errors of two windows, at the middle and at the end of the time in which they are above
    ``floor``, where rounding takes over, and finite. A window spans several oscillations.
    """
    found = []
    for column in errors.T:
        overflow = ~np.isfinite(column)
        end = int(np.argmax(overflow)) if overflow.any() else len(column)
        resolved = np.flatnonzero(column[:end] > floor)
        if len(resolved) == 0 or resolved[-1] < 3:  # gone at once
            found.append(0.0)
            continue
        end = int(resolved[-1]) + 1
        middle, window = end // 2, min(4 * (2 * delay + 1) + 20, end // 4)
        late, early = (max(column[at - window : at].max(), floor) for at in (end, middle))
        found.append(math.exp((math.log(late) - math.log(early)) / (end - middle)))
    return np.array(found)
