"""A moving average and the optimizer's own momentum buffer: two buffers, one of which is there anyway.

With momentum ``m`` the applied update is ``u = lr * v``, ``v`` the momentum buffer, which the optimizer keeps whatever
the pipeline does (Adam's update, too, follows from its buffers). So the newest update ``u_0`` costs no memory. Let the
average hold the older ones only, ``A = (1 - b) (u_1 + b u_2 + ...)``, and recall::

    What = W(t) + x A + y u_0

**Which b, x, y.** If mini-batch gradients are white, ``u`` is an AR(1) process, autocovariance ``m^|k|``. For every
``b`` the least squared error ``E |x A + y u_0 - (u_0 + ... + u_{n-1})|^2`` has its ``(x, y)`` from two normal equations
(:mod:`layerpipe2.moments` has the sums in closed form); the best ``b`` is a minimum in one variable
(:func:`layerpipe2.optimal.optimal_pair`). Delays 1 and 2 are exact, with ``A = u_1``. At momentum 0.9 and delay 14 the
relative error is 0.175, against 0.222 of the best decay without the buffer, and 0.239 of `lsq`.

**Nothing linear does better with this memory.** Filters of constant coefficients that keep one more buffer ``a``
beside ``v`` obey ``a <- b a + (terms in v and the gradient g)``, while ``v <- m v + g``. Seen as filters of ``g``,
their outputs span the decaying powers ``b^i`` and ``m^i``. So do ``A`` and ``u_0``; an average of the gradients, or of
the weights, spans nothing new.

**While the pipeline fills** (``t <= d``) the average is the plain mean of all updates but the newest. So ``What`` with
``x = t - 1``, ``y = 1`` is ``W(0)``, exactly.

>>> W = [torch.tensor([w], dtype=torch.float64) for w in (1.0, 0.5, 0.25, 0.0)]   # delay 2
>>> history = PairHistory(correlation=0.9)
>>> state = history.init(W[0], delay=2)
>>> for t in range(3):
...     history.record(state, W[t] - W[t + 1], torch.tensor([t]))
>>> history.recall(state, W[3], W[1], torch.tensor([3]))       # 0.00 + 0.25 + 0.25 = W(1)
tensor([0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from layerpipe2.moments import Updates
from layerpipe2.optimal import optimal_pair
from layerpipe2.weight_history import Consumes, State, WeightHistory


@dataclass(frozen=True)
class PairHistory(WeightHistory):
    """``What = W(t) + x A(t) + y u_0``; see the module's text.

    Attributes:
        correlation: ``m`` in [0, 1), the optimizer's momentum. Adam: its ``beta1``.
    """

    consumes: Consumes = "updates"
    constants: ClassVar[tuple[str, ...]] = ("gain", "weights")
    correlation: float = 0.9

    def init(self, weights: Tensor, delay: int) -> State:
        """``average`` A and ``newest`` u_0, both (N,), and two tables by the step at which they are used.

        ``gain`` (d + 1,): share of the update that joins the average when update number j arrives, ``1/j`` while the
        pipeline fills and ``1 - b`` from ``j = d`` on. ``weights`` (d + 2, 2): ``(x, y)`` before update number t,
        ``(t - 1, 1)`` up to ``t = d``, none at ``t = 0``.
        """
        best = optimal_pair(Updates(self.correlation), delay)
        gain = [1.0, *(1 / j for j in range(1, delay)), 1 - best.decay]
        pairs = [(0.0, 0.0), *((t - 1.0, 1.0) for t in range(1, delay + 1)), (best.x, best.y)]
        return {
            "average": torch.zeros_like(weights),
            "newest": torch.zeros_like(weights),
            "gain": weights.new_tensor(gain),
            "weights": weights.new_tensor(pairs),
        }

    def recall(self, state: State, latest: Tensor, delayed: Tensor, step: Tensor) -> Tensor:
        """``W(t) + x A(t) + y u_0``."""
        table = state["weights"]
        x, y = table.index_select(0, step.clamp(max=len(table) - 1))[0]
        return torch.addcmul(latest, state["average"], x).addcmul_(state["newest"], y)

    def record(self, state: State, update: Tensor, step: Tensor) -> None:
        """What was newest joins the average."""
        number = step.clamp(max=len(state["gain"]) - 1)
        state["average"].lerp_(state["newest"], state["gain"].index_select(0, number))
        state["newest"].copy_(update)

    def copies(self, delay: int) -> float:
        """One, the average; none below delay 2. Without momentum (``m = 0``) the newest update is a copy of its own."""
        return float(min(delay, 2) if self.correlation == 0 else min(max(delay - 1, 0), 1))
