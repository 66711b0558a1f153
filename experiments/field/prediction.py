"""Weight prediction from what the optimizer holds; what it is good for: :mod:`layerpipe2.strategies.prediction`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.field.refusals import momentum_of, refuse_where
from layerpipe2 import UserError
from layerpipe2.errors import integer
from layerpipe2.strategies import OptimizerView, Prediction, State, Strategy


@dataclass(frozen=True)
class SpecTrain(Prediction):
    """SpecTrain (arXiv 1809.02839); linear weight prediction (arXiv 2003.11666): ``s = lr v``.

    Where gradients are small beside the momentum, ``v`` stays and every update is ``lr v``. SpecTrain's own schedule
    counts steps to the moment when the first stage updates, and predicts on the backward pass as well: here that is
    :class:`XPipe`. Public code (PipeOptim's ``spectrain.py``) takes the applied update for ``lr v``.
    """

    def step(self, state: State, optimizer: OptimizerView) -> Tensor:
        """``lr v``.

        Raises:
            UserError: if the optimizer isn't SGD with momentum.
        """
        momentum_of(optimizer, "SpecTrain")
        return optimizer.setting("lr") * optimizer.state("momentum_buffer")


@dataclass(frozen=True)
class PipeOptim(Prediction):
    """PipeOptim (arXiv 2312.00839): ``s`` is the optimizer's own step, without weight decay.

    ``lr v`` of SGD with momentum, ``lr mhat / (sqrt(vhat) + eps)`` of Adam and AdamW, with bias correction. The public
    code predicts ``world_size - rank`` steps ahead, one more than its text's ``D - rank - 1``, and with SGD by
    ``m v + g``.
    """

    def step(self, state: State, optimizer: OptimizerView) -> Tensor:
        """The optimizer's step.

        Raises:
            UserError: if the optimizer is none of these.
        """
        return own_step(optimizer, "PipeOptim")


@dataclass(frozen=True)
class XPipe(Strategy):
    """XPipe (arXiv 1911.04610): both passes read what the weights will be when stage 0 has updated.

    With ``D`` stages of rank ``r`` and ``M`` micro-batches its step counts are ``round((D + M - r // 2 - 2) / M)``
    forward and ``round((M + r // 2 - 1) / M)`` backward, as in AMDP's code: at ``M = 1`` ``D - 1 - r // 2`` and
    ``r // 2``, one target for both passes. ``s`` is that of :class:`PipeOptim`; AMDP's code divides the moments by
    ``1 - b`` for ``1 - b^t``. It touches both parts of the cost and keeps two copies, no stash. The last stage has no
    delay, so that no strategy is asked there: it reads its latest weights, where the paper predicts.

    Attributes:
        stages: ``D``. The rank follows from the delay ``D - 1 - r``, so that it is defined for the law S alone.

    Raises:
        UserError: if that is no integer from 2 on.
    """

    stages: int

    constants = ("rank",)
    needs_used = False
    fixed_lag = True

    def __post_init__(self) -> None:
        integer(self.stages, "stages of XPipe", 2)

    def init(self, weights: Tensor, delay: int) -> State:
        """``rank`` r (1,), and ``moves`` s (N,)."""
        rank = torch.full((1,), self.stages - 1 - delay, device=weights.device)
        return {"rank": rank, "moves": torch.zeros_like(weights)}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        """``W(t) - (D - 1 - r // 2) s(t)``.

        Raises:
            UserError: if no stage of the law S has this delay, or the optimizer is none of those that are known.
        """
        law = f"XPipe of {self.stages} stages knows delays up to {self.stages - 1}, and a stage has a longer one"
        refuse_where(state["rank"] < 0, f"{law}; take the delay law pipedream (S)")
        state["moves"].copy_(own_step(optimizer, "XPipe"))
        return latest - (self.stages - 1 - state["rank"] // 2) * state["moves"]

    def backward(self, state: State, latest: Tensor, used: Tensor) -> Tensor:
        """``W(t) - (r // 2) s(t)``."""
        return latest - state["rank"] // 2 * state["moves"]

    def copies(self, delay: int, **known: Any) -> float:
        """Two, the predicted weights of each pass."""
        return 2.0 if delay else 0.0


def own_step(optimizer: OptimizerView, row: str) -> Tensor:
    """What the optimizer would move the weights by if its buffers stayed, (N,): no weight decay, zero before it began.

    Raises:
        UserError: if the optimizer is none of SGD with momentum, Adam and AdamW, or has amsgrad.
    """
    if optimizer.kind not in ("SGD", "Adam", "AdamW"):
        raise UserError(f"{row} follows SGD, Adam or AdamW, and the optimizer is {optimizer.kind}; take one of them")
    rate = optimizer.setting("lr")
    if optimizer.kind == "SGD":
        momentum_of(optimizer, row)
        return rate * optimizer.state("momentum_buffer")
    refuse_where(optimizer.setting("amsgrad") != 0, f"{row} is not defined for amsgrad; leave it out")
    done = optimizer.state("step")
    mean = optimizer.state("exp_avg") / (1 - optimizer.setting("betas.0") ** done)
    square = optimizer.state("exp_avg_sq") / (1 - optimizer.setting("betas.1") ** done)
    return torch.where(done > 0, rate * mean / (square.sqrt() + optimizer.setting("eps")), 0)
