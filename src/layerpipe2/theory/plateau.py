"""Growth on a plateau, where the loss curves downwards: what each strategy's weights make of the same curvature.

Near a minimum with no loss left the weights of the backward pass decide nothing (:mod:`layerpipe2.theory.stability`).
On a plateau they do. Let ``v`` be the direction of the most negative curvature ``-c``, all of it between stages: a
product of layers is linear in each. A stage's gradient sees the movement of the stages *before* it through the
activations, which the forward pass made ``d`` updates ago, and that of the stages *behind* it through the weights of
the backward pass. So ``H = L + L^T``, the lower triangle delayed, the upper one as the strategy recalls it, and each is
half of ``v^T H v``. If ``v(t)`` grows like ``exp(x t / d)``, recalled weights stand to the latest ones as ``B(x)`` to
1, and for long delays, to first order in the difference of the two halves,

    x = (k / 2) (exp(-x) + B(x)),   k = learning rate x c x d,

``x`` being the growth per delay in nats. A moving average whose time constant is ``s d`` updates has

    B = 1 - x / (1 + s x),   s = 1 for `ema-window`, 1/2 for `ema-span`, 1 / (2 ln 2) for `ema-lsq`,

since its applied updates grow like the weights do; ``latest`` has ``B = 1`` and ``stash`` ``exp(-x)``, so that
``x exp(x) = k``. For every ``x > 0``: ``latest`` > ``ema-window`` > ``ema-lsq`` > ``stash`` > ``ema-span``.

**Beyond first order.** In ``x v = k (p L + q L^T) v / c`` with ``p = exp(-x)`` and ``q = B``, the mean of ``p`` and
``q`` that stands in the place of ``(p + q) / 2`` depends on how stages are coupled. Neighbours alone (two stages too):
``D^-1 (p L + q L^T) D = sqrt(p q) H`` with ``D_i = (p / q)^(i/2)``: the geometric mean. All alike, many stages: the
eigenvalue is ``(p - q) / ln(p / q)`` times their number, the logarithmic mean. No chain exceeds the arithmetic one,
which is the largest ``v^T (p L + q L^T) v`` there is. With ``q < 0`` (`ema-span` from ``x = 2`` on) the geometric mean
is imaginary: the mode swings.
"""

import math
from collections.abc import Callable

from layerpipe2.errors import UserError, did_you_mean

_TIME_CONSTANTS = {"ema-window": 1.0, "ema-lsq": 0.5 / math.log(2), "ema-span": 0.5}


def _average(time: float) -> Callable[[float], float]:
    return lambda x: 1 - x / (1 + time * x)


RECALLED: dict[str, Callable[[float], float]] = {
    "stash": lambda x: math.exp(-x),
    "latest": lambda x: 1.0,
    **{name: _average(time) for name, time in _TIME_CONSTANTS.items()},
}
"""Strategy -> ``B(x)``, what it recalls of weights that grow by ``x`` nats per delay, relative to the latest ones."""


def growth(strategy: str, k: float) -> float:
    """Return the growth per delay ``x`` in nats: the one root, since the right side falls with ``x``.

    Args:
        strategy: a key of :data:`RECALLED`.
        k: learning rate x size of the most negative curvature x delay, without unit, >= 0.

    Raises:
        UserError: on another strategy, or a negative ``k``.

    >>> [round(growth(name, 1.0), 3) for name in ("latest", "ema-window", "ema-lsq", "stash", "ema-span")]
    [0.739, 0.591, 0.577, 0.567, 0.564]
    """
    if strategy not in RECALLED:
        raise UserError(f"the growth of '{strategy}' on a plateau isn't known; {did_you_mean(strategy, RECALLED)}")
    if not 0 <= k < math.inf:
        raise UserError(f"k is {k}; give a finite number from 0 on")
    low, high = 0.0, k
    for _ in range(60):
        x = (low + high) / 2
        low, high = (x, high) if x < k / 2 * (math.exp(-x) + RECALLED[strategy](x)) else (low, x)
    return (low + high) / 2
