"""The loss in the last process, which must not draw other random numbers than in one process."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from layerpipe2.engine.execution import StagedModule
from layerpipe2.errors import UserError


class WatchedLoss:
    """The loss of ``module``.

    In one process a ``DataLoader`` without a generator of its own draws from torch's default one whenever it begins;
    in several the loader draws in the first process, and the loss in the last.

    Attributes:
        looks: whether the next call looks for random numbers.
    """

    def __init__(self, module: StagedModule) -> None:
        self.module, self.looks, self._others_draw = module, False, False

    def note(self, loader: Any) -> None:
        """Another process begins with this :class:`layerpipe2.pipeline.data_loading.FirstStageLoader`."""
        given = getattr(loader, "loader", None)
        self._others_draw |= isinstance(given, DataLoader) and given.generator is None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``outputs`` (B, ...), ``targets`` -> scalar.

        Raises:
            UserError: if it draws random numbers, and one process would draw others.
        """
        if not (self.looks and self._others_draw):
            return self.module.training_loss(outputs, targets)
        before = torch.get_rng_state()
        value = self.module.training_loss(outputs, targets)
        if not torch.equal(before, torch.get_rng_state()):
            raise UserError(
                "the loss draws random numbers from torch's default generator, from which a DataLoader without one of "
                "its own draws as well in a single process; give every DataLoader a generator, or draw them in a stage"
            )
        return value
