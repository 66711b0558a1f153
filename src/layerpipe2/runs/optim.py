"""Optimizer and learning-rate schedule of a run, as factories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from layerpipe2.runs.config import RunConfig


def optimizer_factory(config: RunConfig) -> Callable[[Iterable[Parameter]], Optimizer]:
    """Parameters -> optimizer with the settings of ``config``; one that a CUDA graph can hold on a CUDA device."""

    def make(given: Iterable[Parameter]) -> Optimizer:
        parameters = list(given)
        cuda = parameters[0].is_cuda
        if config.optimizer == "adamw":
            return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=cuda, capturable=cuda)
        return SGD(
            parameters,
            fused=cuda,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )

    return make


def scheduler_factory(config: RunConfig, steps_per_epoch: int) -> Callable[[Optimizer], LRScheduler]:
    """Optimizer -> schedule that is stepped once per mini-batch; see :func:`lr_factor`."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = total_steps(config, steps_per_epoch)

    def make(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: lr_factor(step, warmup, total, config.schedule))

    return make


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Number of mini-batches of the whole run."""
    steps = config.epochs * steps_per_epoch
    return steps if config.max_steps is None else min(steps, config.max_steps)


def lr_factor(step: int, warmup: int, total: int, schedule: str) -> float:
    """Learning rate of mini-batch ``step`` as a share of the peak.

    Rises linearly over ``warmup`` steps; then stays (``constant``) or falls along half a cosine that reaches zero
    after ``total`` steps (``cosine``).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
