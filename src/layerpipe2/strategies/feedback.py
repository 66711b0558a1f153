"""Error feedback: what the last update was wrong by, because its gradient was late, is added to the next one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from layerpipe2.strategies.base import State, Strategy


@dataclass(frozen=True)
class ErrorFeedback(Strategy):
    """Update-level error feedback (arXiv 2606.30634): ``W - u(t) - c (u(t) - u(t-1))``, with ``c = 1`` there.

    At delay 1 the update that should be applied is ``u(t+1)``, of the gradient at the present weights. What was applied
    one update ago was wrong by ``u(t) - u(t-1)``, and the same is added for the error that is made now: a linear
    extrapolation ``u(t+1) ~ u(t) + (u(t) - u(t-1))``. Over ``d`` updates it is ``u(t) + d (u(t) - u(t-1))``: our
    deduction, ``by_delay``; the paper has delay 1. The first update stays as it is. What is kept is the uncorrected
    update, and it is not rescaled when the rate changes (both as in the only public code, RamTorch's). It touches the
    delay alone, and keeps one copy beside the stash, or beside the latest weights.

    Attributes:
        by_delay: whether ``c`` is the delay, and not 1.
    """

    by_delay: bool = False

    constants = ("factor",)

    def init(self, weights: Tensor, delay: int) -> State:
        """``factor`` c (1,), and ``previous`` u(t-1) (N,)."""
        factor = weights.new_full((1,), delay if self.by_delay else 1)
        return {"factor": factor, "previous": torch.zeros_like(weights)}

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """``W(t+1) - c (u(t) - u(t-1))``."""
        update = before - after
        corrected = after - torch.where(state["step"] > 0, state["factor"] * (update - state["previous"]), 0)
        state["previous"].copy_(update)
        return corrected
