"""Epoch means of loss and accuracy, summed on the device: nothing waits for it before the epoch ends."""

from __future__ import annotations

import torch
from torch import Tensor


class Totals:
    """Running sums over the mini-batches of one epoch."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._samples = 0
        self._targets = 0

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: ``loss`` is its mean, ``outputs`` (B, C, ...), ``targets`` (B, ...) if they are classes."""
        batch = len(targets)
        loss = loss.detach() * batch
        self._loss = loss if self._loss is None else self._loss + loss
        self._samples += batch
        if not targets.is_floating_point() and outputs.ndim == targets.ndim + 1:
            correct = (outputs.argmax(1) == targets).sum()
            self._correct = correct if self._correct is None else self._correct + correct
            self._targets += targets.numel()

    def take_means(self) -> dict[str, Tensor]:
        """``loss`` and, for classes, ``accuracy`` (fraction) over all batches added; starts anew."""
        means = {} if self._loss is None else {"loss": self._loss / self._samples}
        if self._correct is not None:
            means["accuracy"] = self._correct / self._targets
        self.__init__()  # type: ignore[misc]
        return means
