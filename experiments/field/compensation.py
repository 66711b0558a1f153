"""Compensation of a late gradient: what arrives is corrected for the updates that came since, or for their momentum."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.field.refusals import momentum_of
from layerpipe2 import UserError
from layerpipe2.strategies import OptimizerView, State, Strategy


@dataclass(frozen=True)
class DelayCompensation(Strategy):
    """DC-ASGD (arXiv 1609.08326): the gradient at ``W(t)`` to first order, from one at ``W(t - d)``.

    ``g(W(t)) ~ g + H (W(t) - W(t - d))``, with the diagonal of ``l g g'`` for the Hessian ``H``:
    ``g + l g g (W(t) - W(t - d))``. The adaptive form has ``l = scale / sqrt(E + 1e-7)`` for each weight, ``E`` a
    moving average of ``g g``. It touches the delay alone, and keeps the stash, from which it has ``W(t - d)``; the
    adaptive form ``E`` as well. The constants 0.95 and 1e-7 are as cited in secondary sources.

    Attributes:
        scale: ``l``, or in the adaptive form ``l sqrt(E)``.
        adaptive: whether ``l`` follows the size of the gradient.

    Raises:
        UserError: if ``scale`` is no positive number.
    """

    scale: float
    adaptive: bool = True

    constants = ("scale",)

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise UserError(f"lambda of DC-ASGD is {self.scale!r}; give a positive number")

    def init(self, weights: Tensor, delay: int) -> State:
        """``scale`` (1,), and in the adaptive form ``square`` E (N,)."""
        own = {"square": torch.zeros_like(weights)} if self.adaptive else {}
        return {"scale": weights.new_full((1,), self.scale)} | own

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        """``g + l g g (W(t) - W(t - d))``."""
        scale = state["scale"]
        if self.adaptive:
            state["square"].lerp_(gradient**2, 0.05)
            scale = scale / (state["square"] + 1e-7).sqrt()
        return gradient + scale * gradient**2 * (latest - used)


@dataclass(frozen=True)
class GapAware(Strategy):
    """Gap-aware (arXiv 1909.10802): a gradient counts the less the farther its weights are, in steps of each weight.

    ``g / (1 + |W(t) - W(t - d)| / C)``, where ``C = lr_max (sqrt(R / (1 - r^(t+1))) + 1e-8)`` is the size of a step and
    ``R <- r R + (1 - r) v^2`` an average of the momentum buffer's square, ``v`` that before the update. Weight decay,
    which is a part of SGD's gradient, is divided as well: ``(g + k W) / (1 + gap) - k W`` is given to the optimizer.
    This is the form of FTPipe's public code. It touches the delay alone, and keeps the stash and ``R``.

    Attributes:
        memory: ``r``.
    """

    memory: float = 0.999

    def init(self, weights: Tensor, delay: int) -> State:
        """``square`` R, ``peak`` lr_max and ``decay`` k, each (N,)."""
        return {name: torch.zeros_like(weights) for name in ("square", "peak", "decay")}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """Note the optimizer's settings and momentum.

        Raises:
            UserError: if the optimizer isn't SGD with momentum.
        """
        momentum_of(optimizer, "gap-aware")
        state["square"].lerp_(optimizer.state("momentum_buffer") ** 2, 1 - self.memory)
        torch.maximum(state["peak"], optimizer.setting("lr"), out=state["peak"])
        state["decay"].copy_(optimizer.setting("weight_decay"))
        return latest

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        """``(g + k W) / (1 + gap) - k W``; the gap is 0 where the weights haven't moved."""
        done = state["step"].to(latest.dtype) + 1
        step = state["peak"] * ((state["square"] / (1 - self.memory**done)).sqrt() + 1e-8)
        gap = torch.where(latest == used, 0, (latest - used).abs() / step)
        shrunk = state["decay"] * latest
        return (gradient + shrunk) / (1 + gap) - shrunk

    def copies(self, delay: int, **known: Any) -> float:
        """The stash and ``R``; the settings are numbers."""
        return super().copies(delay, **known) - 2.0 if delay else 0.0


@dataclass(frozen=True)
class SpikeCompensation(Strategy):
    """Spike compensation (arXiv 2003.11666): a late gradient moves the weights at once as far as it would have by then.

    With momentum ``m`` a gradient of ``d`` updates ago would have moved the weights by ``lr (1 + m + ... + m^(d-1))``
    times itself, and go on with ``m^d v``. So ``W - lr (a v + b g)``, ``a = m^d``, ``b = (1 - m^d) / (1 - m)``, for
    ``W - lr v``. Of the applied update ``u = lr v`` the part ``lr m v(t-1)`` is known from before, which leaves
    ``lr g``. It touches the delay alone. It keeps nothing: an optimizer has both ``v`` and ``g``.
    """

    constants = ("delay",)

    def init(self, weights: Tensor, delay: int) -> State:
        """``delay`` (1,), ``momentum`` m and ``carried`` lr m v(t-1), both (N,)."""
        kept = {name: torch.zeros_like(weights) for name in ("momentum", "carried")}
        return {"delay": torch.full((1,), delay, device=weights.device)} | kept

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """Note the momentum.

        Raises:
            UserError: if the optimizer isn't SGD with plain momentum.
        """
        state["momentum"].copy_(momentum_of(optimizer, "spike compensation", plain=True))
        carried = optimizer.setting("lr") * state["momentum"] * optimizer.state("momentum_buffer")
        state["carried"].copy_(carried)
        return latest

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """``W - (a u + b (u - lr m v(t-1)))``."""
        m, update = state["momentum"], before - after
        a = m ** state["delay"]
        return before - (a * update + (1 - a) / (1 - m) * (update - state["carried"]))

    def copies(self, delay: int, **known: Any) -> float:
        """None beside a stash."""
        return super().copies(delay, **known) - 2.0 if delay else 0.0
