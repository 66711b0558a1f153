"""What an execution counts in an epoch: the means of loss and accuracy, and which steps are audited."""

import random
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from layerpipe2.engine.batches import class_dimension
from layerpipe2.engine.packing import unpack
from layerpipe2.errors import UserError

_SHORT, _LONG = 200, 1000


class Totals:
    """Epoch means of loss and accuracy, summed on the device: nothing waits for it before the epoch ends.

    Args:
        metrics: those of torchmetrics, by name; they are copied, and count what is added here: nothing of other
            processes.
        ignore_index: class of targets that count neither in the accuracy nor in the loss's mean.
        accuracy: whether it is counted.
        several: whether targets are several in one tensor, of which the first counts.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric] | None = None,
        ignore_index: int | None = None,
        *,
        accuracy: bool = True,
        several: bool = False,
    ) -> None:
        self._ignored, self._counts_correct, self._several = ignore_index, accuracy, several
        self._metrics = {name: metric.clone() for name, metric in (metrics or {}).items()}
        parts = [part for metric in self._metrics.values() for part in metric.modules() if isinstance(part, Metric)]
        for part in parts:  # in a pipeline only the last process has outputs, and it must wait for no other
            part.distributed_available_fn = lambda: False
        self._begin()

    def _begin(self) -> None:
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._weight: int | Tensor = 0
        self._targets: int | Tensor = 0

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: ``loss`` is its mean, over targets that count where some don't.

        ``outputs`` are (B, C, ...) or (B, T, V), ``targets`` (B, ...), if they are classes.
        """
        targets = unpack(targets)[0] if self._several else targets
        for metric in self._metrics.values():  # copies: both lie in memory that the next mini-batches are written to
            metric.to(outputs.device).update(outputs.detach().clone(), targets.clone())
        counted = None if self._ignored is None else (targets != self._ignored).sum()
        weight = len(targets) if counted is None else counted
        # The mean of no target is NaN, and counts nothing.
        loss = loss.detach() * weight if counted is None else (loss.detach() * weight).where(counted > 0, 0)
        self._loss = loss if self._loss is None else self._loss + loss
        self._weight = self._weight + weight
        classes = class_dimension(outputs, targets) if self._counts_correct else None
        if classes is not None:
            correct = (outputs.argmax(classes) == targets).sum()  # no class is ``ignore_index``, if that is negative
            self._correct = correct if self._correct is None else self._correct + correct
            self._targets = self._targets + (targets.numel() if counted is None else counted)

    def take_means(self) -> dict[str, Tensor]:
        """``loss``, for classes ``accuracy`` (fraction), and the metrics, over all batches added; starts anew.

        Raises:
            UserError: if a metric is no single number.
        """
        means = {} if self._loss is None else {"loss": self._loss / self._weight}
        if self._correct is not None:
            means["accuracy"] = self._correct / self._targets
        if self._loss is not None:
            means |= {name: _one_value(name, metric) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        self._begin()
        return means


@torch.no_grad()
def _one_value(name: str, metric: Metric) -> Tensor:
    value = metric.compute()
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"metric {name!r} gives {found}; take one that gives one number, as with average='macro'")
    return value


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
