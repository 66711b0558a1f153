"""A moving average and the optimizer's own momentum buffer: two buffers, one of which is there anyway.

With momentum ``m`` the applied update is ``u = lr * v``, ``v`` the momentum buffer, which the optimizer keeps whatever
the pipeline does (Adam's update, too, follows from its buffers). So the newest update ``u_0`` costs no memory. Let the
average hold the older ones only, ``A = (1 - b) (u_1 + b u_2 + ...)``, and recall::

    What = W(t) + x A + y u_0

**Which b, x, y.** If mini-batch gradients are white, ``u`` is an AR(1) process, autocovariance ``m^|k|``. For every
``b`` the least squared error ``E |x A + y u_0 - (u_0 + ... + u_{n-1})|^2`` has its ``(x, y)`` from two normal equations
(:mod:`layerpipe2.strategies.moments` has the sums in closed form); the best ``b`` is a minimum in one variable
(:func:`layerpipe2.strategies.optimal.optimal_pair`). Delays 1 and 2 are exact, with ``A = u_1``. At momentum 0.9 and
delay 14 the relative error is 0.175, against 0.222 of the best decay without the buffer, and 0.249 of `lsq`.

**Which m.** Gradients are not quite white: what is best follows the correlation that the updates have. ``u_0`` being at
hand when ``u`` arrives, it is measured: ``m = <u, u_0> / ((<u, u> + <u_0, u_0>) / 2)``, both averaged over some hundred
updates; two numbers per stage.

**Nothing linear does better with this memory.** Filters of constant coefficients that keep one more buffer ``a``
beside ``v`` obey ``a <- b a + (terms in v and the gradient g)``, while ``v <- m v + g``. Seen as filters of ``g``,
their outputs span the decaying powers ``b^i`` and ``m^i``. So do ``A`` and ``u_0``; an average of the gradients, or of
the weights, spans nothing new.

**While the pipeline fills** (``t <= d``) the average is the plain mean of all updates but the newest. So ``What`` with
``x = t - 1``, ``y = 1`` is ``W(0)``, exactly.

>>> W = [torch.tensor([w], dtype=torch.float64) for w in (1.0, 0.5, 0.25, 0.0)]   # delay 2
>>> from layerpipe2.strategies import begin, count
>>> pair = Pair()
>>> state = begin(pair, W[0], delay=2)
>>> for t in range(3):
...     _ = pair.update(state, W[t], W[t + 1])
...     count(state, delay=2)
>>> pair.backward(state, W[3], W[1])       # 0.00 + 0.25 + 0.25 = W(1)
tensor([0.5000], dtype=torch.float64)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.strategies import sweeps
from layerpipe2.strategies.base import FromLatest, State
from layerpipe2.strategies.moments import Updates
from layerpipe2.strategies.optimal import optimal_pair

MEMORY = 0.99
"""Decay of the averages that measure the correlation. Nothing is sensitive to it: 0.8 does almost as well."""

SPACING, ROWS = 0.2, 24
"""Correlations that are told apart: ``-ln(1 - m) = 0, 0.2, ... 4.6``, up to 0.99. Between two, errors differ by 1 %."""


@dataclass(frozen=True)
class Pair(FromLatest):
    """``What = W(t) + x A(t) + y u_0``; see the module's text.

    Attributes:
        correlation: ``m`` in [0, 1), such as the optimizer's momentum or Adam's ``beta1``; ``None`` measures it.

    Raises:
        UserError: if the correlation is something else.
    """

    correlation: float | None = None
    constants = ("span", "table", "edges")
    fixed_lag = True

    def __post_init__(self) -> None:
        m = self.correlation
        if m is not None and (isinstance(m, bool) or not isinstance(m, int | float) or not 0 <= m < 1):
            raise UserError(f"correlation is {m!r}; give a number >= 0 and < 1, or None to measure it")

    def table(self, delay: int) -> list[tuple[float, float, float]]:
        """``(1 - b, x, y)`` for each correlation that is told apart."""
        measured = [_correlation(row) for row in range(ROWS)]
        correlations = measured if self.correlation is None else [self.correlation]
        best = [optimal_pair(Updates(m), delay) for m in correlations]
        return [(1 - estimator.decay, estimator.x, estimator.y) for estimator in best]

    def init(self, weights: Tensor, delay: int) -> State:
        """``average`` A and ``newest`` u_0, both (N,); ``products`` (2,); the delay as ``span`` (1,); ``table`` (R, 3).

        ``products`` are the averages of ``<u, u_0>`` and ``(<u, u> + <u_0, u_0>) / 2``. ``row`` (3, 1) is the table's
        for their ratio, which is at most 1; ``edges`` (R,) are the largest ratios of the rows.
        """
        table = weights.new_tensor(self.table(delay))
        return {
            "average": torch.zeros_like(weights),
            "newest": torch.zeros_like(weights),
            "products": weights.new_zeros(2),
            "span": torch.full((1,), delay, device=weights.device),
            "table": table,
            "edges": weights.new_tensor([*(_correlation(row + 0.5) for row in range(len(table) - 1)), 2.0]),
            "row": table[0][:, None].clone(),
        }

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """``W(t) + x A(t) + y u_0``."""
        recalled = sweeps.add_pair(state, latest)
        if recalled is not None:
            return recalled
        _, x, y = state["row"]
        step = state["step"]
        filling = step <= state["span"]
        x, y = torch.where(filling, step - 1, x), torch.where(filling, 1, y)
        return torch.addcmul(latest, state["average"], x).addcmul_(state["newest"], y)

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Measure the correlation; the update that was the newest joins the average."""
        if sweeps.move_pair(state, before, after, MEMORY):
            return after
        update, newest, step = before - after, state["newest"], state["step"]
        squares = (update.dot(update) + newest.dot(newest)) / 2
        state["products"].lerp_(torch.stack([update.dot(newest), squares]), 1 - MEMORY)
        state["row"].copy_(_row(state))
        gain = torch.where(step < state["span"], 1 / step.clamp(min=1).to(update.dtype), state["row"][0])
        state["average"].lerp_(newest, gain)
        newest.copy_(update)
        return after

    def copies(self, delay: int, *, momentum_buffer: bool = True) -> float:
        """One, the average; none below delay 2. Without a momentum buffer the newest update is one copy more."""
        return float(min(max(delay - 1, 0), 1) if momentum_buffer else min(delay, 2))

    def coefficients(self, delay: int, updates: Updates) -> tuple[float, float, float]:
        """The best ones for the method's own correlation, or for that of the updates as it would measure it."""
        correlation = self.correlation
        if correlation is None:
            newest, older = updates.mean(0), updates.mean(1)
            square = updates.covariance(0) + (newest**2 + older**2) / 2
            correlation = _told_apart((updates.covariance(1) + newest * older) / square)
        best = optimal_pair(Updates(correlation), delay)
        return best.decay, best.x, best.y


def _told_apart(correlation: float) -> float:
    """The correlation among those of the table that stands for a measured one up to 1."""
    return _correlation(min(ROWS - 1, round(-math.log1p(-min(max(correlation, 0.0), 0.999)) / SPACING)))


def _correlation(row: float) -> float:
    return -math.expm1(-SPACING * row)


def _row(state: State) -> Tensor:
    """The table's row for the measured correlation, shape (3, 1)."""
    cross, square = state["products"]
    # A run that diverges gets NaN here: it must go on to be recorded as diverged.
    correlation = (cross / square.clamp(min=torch.finfo(square.dtype).tiny)).nan_to_num(nan=0.0, posinf=1.0)
    return state["table"].index_select(0, torch.bucketize(correlation, state["edges"])[None]).T
