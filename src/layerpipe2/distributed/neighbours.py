"""The four directions of messages of a process in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerpipe2.distributed.endpoint import Endpoint
from layerpipe2.distributed.links import Inbox, Outbox

_ACTIVATIONS, _GRADIENTS = 0, 1


@dataclass(frozen=True)
class Neighbours:
    """The four directions of a process in training; ``None`` at the ends of the pipeline.

    Targets travel with their mini-batch from the first stage to the last, so that only the first reads data.

    Attributes:
        between: by how many updates the delay of the stage before this process exceeds that of its first stage: between
            two steps, so many activations are under way.
    """

    between: int
    activations_in: Inbox | None
    activations_out: Outbox | None
    gradients_in: Inbox | None
    gradients_out: Outbox | None

    @classmethod
    def of(cls, endpoint: Endpoint, delays: Sequence[int], first: int, last: int) -> Neighbours:
        """Those of the process that owns the stages ``first`` to ``last`` of a pipeline with ``delays``.

        As many activations are awaited in advance as the delays put between the two stages of a boundary. A message
        stays in its buffer until the backward pass, ``delays[first]`` steps later.
        """
        between = delays[first - 1] - delays[first] if first else 0
        ahead = max(1, between)
        return cls(
            between,
            endpoint.inbox(-1, _ACTIVATIONS, slots=delays[first] + ahead + 2, ahead=ahead),
            endpoint.outbox(+1, _ACTIVATIONS, depth=delays[last] + 2),
            endpoint.inbox(+1, _GRADIENTS, slots=2, ahead=1),
            endpoint.outbox(-1, _GRADIENTS, depth=2),
        )

    def expect(self, batches: float) -> None:
        """So many more mini-batches will pass (infinitely many may)."""
        count = 2**62 if math.isinf(batches) else int(batches)
        for inbox in (self.activations_in, self.gradients_in):
            if inbox is not None:
                inbox.expect(count)

    def take_in(self, messages: int) -> None:
        """Take in the activations that are under way."""
        if self.activations_in is not None:
            self.activations_in.take_in(messages)

    def flush(self) -> None:
        """Wait until all messages have left."""
        for outbox in (self.activations_out, self.gradients_out):
            if outbox is not None:
                outbox.flush()
