"""Small pipelines compute where their latest weights are.

To give a stage's parameters other memory for the passes of a mini-batch, and each view of them that autograd saves,
takes microseconds, of which a small network's step is made. To copy all weights takes less, as long as the second-level
cache holds them: the latest ones are put aside, what the forward pass reads is written over them, before the backward
pass what that reads, and then the latest ones again.
"""

from collections.abc import Sequence

import torch

from layerpipe2.engine.weights import DelayedWeights
from layerpipe2.strategies import Strategy
from layerpipe2.strategies.together import backward_of, copies_to

SMALL = 1 << 18
"""Delayed weights of a pipeline, at most."""


def is_small(delayed: Sequence[DelayedWeights]) -> bool:
    """Whether the weights fit the cache, in a processor's memory."""
    on_host = all(weights.table is None for weights in delayed)
    return on_host and 0 < sum(weights.layout.size for weights in delayed) <= SMALL


class InPlace:
    """The delayed stages of a pipeline whose passes compute in the memory of the latest weights.

    Autograd doesn't count these changes: it counts those of the parameters, which are views.

    Args:
        delayed: the stages' weights.
        strategy: that of all stages, one that isn't exact.

    Attributes:
        entered: whether passes are running: :attr:`DelayedWeights.latest` are copies meanwhile.
    """

    def __init__(self, delayed: Sequence[DelayedWeights], strategy: Strategy) -> None:
        self._delayed = list(delayed)
        self._memory = [weights.latest for weights in delayed]
        self._copies = [torch.empty_like(latest) for latest in self._memory]
        self.entered = False
        self._backward = backward_of(strategy, [weights.state for weights in delayed], self._copies, self._memory)
        self._put_aside, self._write = copies_to(self._copies), copies_to(self._memory)

    @torch.no_grad()
    def enter(self) -> None:
        """Make the parameters what the forward pass reads, before it runs."""
        read = [weights.used() for weights in self._delayed]
        self._put_aside(self._memory)
        self._write(read)
        self._take_for_latest(self._copies)
        self.entered = True

    @torch.no_grad()
    def recall(self) -> None:
        """Make the parameters, and all that was saved of them, what the strategy recalls, before the backward pass."""
        if self._backward is not None:
            self._backward()
        else:
            self._write([weights.recalled() for weights in self._delayed])

    @torch.no_grad()
    def leave(self) -> None:
        """Make the parameters the latest weights again, after the passes."""
        if self.entered:
            self._write(self._copies)
            self._take_for_latest(self._memory)
            self.entered = False

    def _take_for_latest(self, flats: Sequence[torch.Tensor]) -> None:
        for weights, flat in zip(self._delayed, flats, strict=True):
            weights.latest = flat
