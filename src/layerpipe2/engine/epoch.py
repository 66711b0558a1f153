"""What an execution counts in an epoch: the means of loss and accuracy, and which steps are audited."""

import random
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from layerpipe2.errors import UserError

_SHORT, _LONG = 200, 1000


class Totals:
    """Epoch means of loss and accuracy, summed on the device: nothing waits for it before the epoch ends.

    ``metrics`` (of torchmetrics, by name) are copied, and count what is added here: nothing of other processes.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None) -> None:
        self._metrics = {name: metric.clone() for name, metric in (metrics or {}).items()}
        parts = [part for metric in self._metrics.values() for part in metric.modules() if isinstance(part, Metric)]
        for part in parts:  # in a pipeline only the last process has outputs, and it must wait for no other
            part.distributed_available_fn = lambda: False
        self._begin()

    def _begin(self) -> None:
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._samples = 0
        self._targets = 0

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: ``loss`` is its mean, ``outputs`` (B, C, ...), ``targets`` (B, ...) if they are classes."""
        for metric in self._metrics.values():  # copies: both lie in memory that the next mini-batches are written to
            metric.to(outputs.device).update(outputs.detach().clone(), targets.clone())
        batch = len(targets)
        loss = loss.detach() * batch
        self._loss = loss if self._loss is None else self._loss + loss
        self._samples += batch
        if not targets.is_floating_point() and outputs.ndim == targets.ndim + 1:
            correct = (outputs.argmax(1) == targets).sum()
            self._correct = correct if self._correct is None else self._correct + correct
            self._targets += targets.numel()

    def take_means(self) -> dict[str, Tensor]:
        """``loss``, for classes ``accuracy`` (fraction), and the metrics, over all batches added; starts anew.

        Raises:
            UserError: if a metric is no single number.
        """
        means = {} if self._loss is None else {"loss": self._loss / self._samples}
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
