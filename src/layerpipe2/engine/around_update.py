"""What a pipeline does around an update: keeps the weights before it, and lets the strategy take the update in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.lightning import pl
from layerpipe2.optim import ONE_PASS, OnePass, Part
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
        self._taken = self._kept = False
        self._asked: OnePass | None = None

    def begin(self, optimizer: Any, *, hooked: bool) -> None:
        """Have the optimizer's step do all of it, if it is one that can; else do the first part.

        Args:
            optimizer: Lightning's wrapper as well.
            hooked: whether somebody may change weights within the step, before the optimizer does.
        """
        self._kept, own = False, _alone(optimizer)
        if own is None or hooked or not self._on_host or any(w.shown is not w.latest for w in self._delayed):
            self.keep()
        else:
            self._asked, own.around = own, self

    @torch.no_grad()
    def keep(self) -> None:
        """Put the weights into the delay line, or aside for the strategy."""
        self._before, self._taken, self._kept = [weights.keep() for weights in self._delayed], False, True

    def parts(self) -> Mapping[Tensor, Part]:
        """Where a step that does it all puts each parameter's earlier values, and which average it moves."""
        found, self._before, self._taken, self._kept = dict[Tensor, Part](), [], self._moves, True
        for weights in self._delayed:
            room = weights.room(copied=weights.corrects and not self._moves)
            found |= weights.parts(room, moved=self._moves)
            self._before.append(weights.latest if room is None else room)
        torch.autograd.graph.increment_version(self._before)
        return found

    def withdraw(self) -> None:
        """Ask nothing of a step that comes later, where this one has failed."""
        if self._asked is not None:
            self._asked.around = None
            self._asked = None

    def end(self) -> None:
        """Let the strategy take the update in, after the optimizer's step, if that hasn't."""
        if not self._kept:  # no step was made
            self.keep()
        if self._taken or not self._acting:
            return
        before = [old for weights, old in zip(self._delayed, self._before, strict=True) if weights.corrects]
        if self._together is not None:
            self._together(before)
            return
        for weights, old in zip(self._acting, before, strict=True):
            weights.take_update(old)


def _alone(optimizer: Any) -> OnePass | None:
    """The optimizer, if its step is nothing but :meth:`OnePass.step`, without hooks, subclass or wrapper around it."""
    inside = isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
    plain = optimizer.optimizer if inside else optimizer
    if type(plain) not in ONE_PASS:
        return None
    hooks = plain._optimizer_step_pre_hooks, plain._optimizer_step_post_hooks
    everywhere = torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks
    replaced = "step" in vars(plain) and not getattr(plain.step, "_wrapped_by_lr_sched", False)
    return None if replaced or any((*hooks, *everywhere)) else plain
