"""Where a training stopped being finite: in which stage, and whether in its weights or in what it made with them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

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
