"""Where a training stopped being finite: in which stage, and whether in its weights or in what it made with them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Divergence(NamedTuple):
    """The first thing that was not finite when a loss was not.

    Attributes:
        stage: its number; ``None`` for the mini-batch itself and for the loss.
        quantity: ``mini-batch``, ``weights`` (those of the forward pass), ``outputs`` or ``loss``.
    """

    stage: int | None
    quantity: str


def describe(where: Mapping[str, Any]) -> str:
    """The words for :meth:`layerpipe2.engine.execution.Execution.where_diverged`.

    >>> describe({"epoch": 1, "step": 7, "stage": 2, "quantity": "weights"})
    'epoch 1, mini-batch 7: the weights of stage 2 are not finite (all counted from 0)'
    """
    step = "" if where["step"] is None else f", mini-batch {where['step']}"
    stage = "" if where["stage"] is None else f" of stage {where['stage']}"
    is_or_are = "are" if where["quantity"] in ("weights", "outputs") else "is"
    return f"epoch {where['epoch']}{step}: the {where['quantity']}{stage} {is_or_are} not finite (all counted from 0)"


def is_finite(loss: Tensor) -> bool:
    """Whether the loss is finite; on a GPU, which nothing may wait for in a step, this is taken for granted."""
    return loss.is_cuda or math.isfinite(loss.item())


def find_divergence(x: Tensor, weights: Sequence[Iterable[Tensor]], outputs: Sequence[Tensor]) -> Divergence:
    """Follow a mini-batch ``x`` whose loss is not finite through the stages' ``weights`` and ``outputs``."""
    if not all_finite([x]):
        return Divergence(None, "mini-batch")
    for k, (own, made) in enumerate(zip(weights, outputs, strict=True)):
        if not all_finite(own):
            return Divergence(k, "weights")
        if not all_finite([made]):
            return Divergence(k, "outputs")
    return Divergence(None, "loss")


def diverged_stage(stages: Iterable[nn.Module]) -> int | None:
    """The first stage whose latest weights are not finite, if there is one."""
    return next((k for k, stage in enumerate(stages) if not all_finite(stage.parameters())), None)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of every tensor is finite."""
    return all(bool(torch.isfinite(tensor.detach()).all()) for tensor in tensors)
