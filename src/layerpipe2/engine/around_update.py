"""What a pipeline does around an update: keeps the weights before it, and lets the strategy take the update in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.optim import OnePass, Part
from layerpipe2.strategies.average import MovingAverage
from layerpipe2.strategies.together import update_of


class AroundUpdate:
    """What is done around the updates of stages that share an optimizer.

    Args:
        delayed: the stages' weights.
    """

    def __init__(self, delayed: Sequence[DelayedWeights]) -> None:
        self._delayed = list(delayed)
        self._acting = [weights for weights in delayed if weights.corrects]
        states, latest = [weights.state for weights in self._acting], [weights.latest for weights in self._acting]
        self._together: Callable[[Sequence[Tensor]], None] | None = None
        if self._acting:
            self._together = update_of(self._acting[0].strategy, states, latest)
        averages = bool(self._acting) and type(self._acting[0].strategy) is MovingAverage
        self._moves = averages and self._together is not None
        self._on_host = all(weights.table is None for weights in delayed)
        self._before: list[Tensor] = []
        self._taken = False

    def begin(self, optimizer: Any) -> None:
        """Have the optimizer's step do all of it, if it is one that can; else do the first part.

        Hooks of the step may change weights, and what the forward passes read may be others than the latest weights.
        """
        plain = getattr(optimizer, "optimizer", optimizer)
        hooked = isinstance(plain, OnePass) and (plain._optimizer_step_pre_hooks or plain._optimizer_step_post_hooks)
        if (
            isinstance(plain, OnePass)
            and self._on_host
            and not hooked
            and all(w.shown is w.latest for w in self._delayed)
        ):
            plain.around = self
        else:
            self.keep()

    @torch.no_grad()
    def keep(self) -> None:
        """Put the weights into the delay line, or aside for the strategy."""
        self._before, self._taken = [weights.keep() for weights in self._delayed], False

    def places(self) -> Mapping[Tensor, Part]:
        """Where a step that does it all puts each parameter's earlier values, and which average it moves."""
        found, self._before, self._taken = dict[Tensor, Part](), [], self._moves
        for weights in self._delayed:
            room = weights.room(copied=weights.corrects and not self._moves)
            found |= weights.places(room, moved=self._moves)
            self._before.append(weights.latest if room is None else room)
        torch.autograd.graph.increment_version(self._before)
        return found

    def end(self) -> None:
        """Let the strategy take the update in, after the optimizer's step, if that hasn't."""
        if self._taken or not self._acting:
            return
        before = [old for weights, old in zip(self._delayed, self._before, strict=True) if weights.corrects]
        if self._together is not None:
            self._together(before)
            return
        for weights, old in zip(self._acting, before, strict=True):
            weights.take_update(old)
