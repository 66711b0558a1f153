"""What an execution counts in an epoch: the means of loss and accuracy, and which steps are audited."""

import random

import torch
from torch import Tensor

_SHORT, _LONG = 200, 1000


class Totals:
    """Epoch means of loss and accuracy, summed on the device: nothing waits for it before the epoch ends."""

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


class AuditSteps:
    """Which steps of an epoch are audited: the first, and one that the epoch's number draws.

    An audit takes up to two further steps' time, so of epochs shorter than 200 mini-batches only some have a drawn one:
    one in 200 steps on average. An endless epoch has it among its first 1000.

    Attributes:
        step: steps of the epoch that are done.
    """

    def __init__(self) -> None:
        self.step, self._drawn = 0, -1

    def start_epoch(self, epoch: int, batches: float) -> None:
        """Begin epoch number ``epoch`` of ``batches`` mini-batches."""
        self.step, self._drawn = (
            0,
            random.Random(epoch).randrange(1, _SHORT if batches < _SHORT else int(min(batches, _LONG))),
        )

    @property
    def due(self) -> bool:
        """Whether the next step is to be audited."""
        return self.step in (0, self._drawn)
