"""An update of the stages that share an optimizer: gradients are clipped and applied, the strategy learns of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.engine.around_update import AroundUpdate
from layerpipe2.engine.audited_forward import clip_gradients
from layerpipe2.engine.optimizer_checks import first_step
from layerpipe2.engine.seen_gradients import SeenGradients
from layerpipe2.engine.stage import Stage
from layerpipe2.engine.watch import WeightWatch


class Update:
    """Updates of ``stages``, which share an optimizer and the counter ``step``, int64 (1,).

    Attributes:
        watch: looks for weights that something else than the optimizer has changed.
        hooked: whether callbacks may change weights within the optimizer's step.
    """

    def __init__(self, stages: Sequence[Stage], step: Tensor) -> None:
        self.hooked = False
        self._stages, self._step = stages, step
        self._delayed = [stage.weights for stage in stages if stage.weights is not None]
        self._parameters = [p for weights in self._delayed for p in weights.layout.parameters]
        self._around = AroundUpdate(self._delayed)
        self.watch = WeightWatch(stages)

    def begin(self, optimizer: Optimizer | Any | None) -> None:
        """Begin the passes that lead to the next update: the strategy chooses what forward passes read.

        Raises:
            UserError: if something else than the optimizer has changed weights since the last update, a parameter was
                replaced, or one was unfrozen whose earlier values are not known.
        """
        self.watch.begin_step()
        for weights in self._delayed:
            weights.begin_step(optimizer)

    def __call__(self, optimizer: Optimizer | Any | None) -> None:
        """Apply the parameters' gradients.

        Raises:
            UserError: if something else than the optimizer has changed weights or, after the strategy has seen them,
                gradients or learning rates.
        """
        self.watch.check_quickly()
        for stage in self._stages:
            clip_gradients(stage.module, stage.clip_norm)
        with torch.no_grad():
            for weights in self._delayed:
                weights.change_gradients()
        self._around.begin(optimizer, hooked=self.hooked)
        seen = SeenGradients(self._delayed, copies=any(stage.looks for stage in self._stages))
        try:
            with seen.checking(optimizer):
                if optimizer is not None:
                    optimizer.step() if self._stages[0].updated else first_step(optimizer)
        finally:
            self._around.withdraw()
        with torch.no_grad():
            for weights in self._delayed:
                weights.take_back()
            self._around.end()
        # An earlier graph can't be run back any more.
        torch.autograd.graph.increment_version(self._parameters)
        for stage in self._stages:
            stage.updated = True
            stage.looks = max(0, stage.looks - 1)
        self.watch.updated()
        self._step += 1
