"""AsyncPP: Nesterov's look-ahead as a correction of the delay (arXiv 2505.01099).

``d(t) = m (w(t) - w(t-1))``; ``w(t+1) = w(t) + d(t) - lr (1 - m) g(w(t - tau) + d(t - tau))``: the gradient is
discounted by ``1 - m``, so that with ``m`` near 1 the weights move slowly, and the look-ahead ``d`` leads to where they
are going (the equations are as cited in secondary sources; the discount is the paper's own).
Forward passes read ``y = w + d`` and nothing reads ``w``: kept as the parameters, ``y`` needs no strategy but a stash::

    w(t+1) = y(t) - lr (1 - m) g(y(t - tau))
    y(t+1) = w(t+1) + m (w(t+1) - w(t))

At a constant rate this is torch's SGD with ``nesterov``, momentum ``m`` and the rate ``lr (1 - m)``, whose buffer is
``(w(t) - w(t+1)) / (lr (1 - m))``; under a schedule it is not. What the authors' code trains is torch's NAdam with
``betas = (0.99, 0.999)``, decoupled weight decay and a stash (:func:`nadam`), not this recursion. It touches the delay
alone, and keeps the stash; ``w`` takes the place of a momentum buffer.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import NAdam, Optimizer

from layerpipe2 import UserError


class LookAhead(Optimizer):
    """The recursion; the parameters are ``y``.

    Args:
        parameters: those to train.
        lr: the rate, of which ``1 - m`` is applied.
        momentum: ``m`` in [0, 1).
        weight_decay: ``k``, of which ``k y`` is added to the gradient.

    Raises:
        UserError: if it is something else.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.99, weight_decay: float = 0.0
    ) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"momentum of LookAhead is {momentum!r}; give a number >= 0 and < 1")
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            m = group["momentum"]
            for y in (p for p in group["params"] if p.grad is not None):
                before = self.state[y].get("weights", y.clone())
                after = y - group["lr"] * (1 - m) * (y.grad + group["weight_decay"] * y)
                self.state[y]["weights"] = after
                y.copy_(after + m * (after - before))
        return loss


def nadam(parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, beta1: float = 0.99) -> NAdam:
    """AsyncPP's optimizer as its code has it."""
    decays: dict[str, Any] = {"weight_decay": weight_decay, "decoupled_weight_decay": True, "momentum_decay": 0.004}
    return NAdam(parameters, lr=lr, betas=(beta1, 0.999), **decays)
