"""Validation and test: mini-batches pass all processes once, forward, with links of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from layerpipe2.distributed.endpoint import Endpoint
from layerpipe2.distributed.links import Inbox, Outbox

_KINDS = {"val": 2, "test": 3}  # of messages; training has two others


class Evaluation:
    """This process's part of every validation and test."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._links: dict[str, tuple[Inbox | None, Outbox | None]] = {}

    def pass_on(self, phase: str, stages: Sequence[nn.Module], batch: Any) -> tuple[Tensor, Tensor] | None:
        """Outputs and targets in the last process, ``None`` in the others.

        Args:
            phase: ``val`` or ``test``.
            stages: of this process.
            batch: inputs and targets in the first process, anything in the others.
        """
        inbox, outbox = self._links.get(phase) or self._connect(phase)
        if inbox is None:
            x, y = batch
        else:
            inbox.expect(1)
            x, y = inbox.receive()
        for stage in stages:
            x = stage(x)
        if outbox is None:
            return x, y
        outbox.send(x, y)
        return None

    def _connect(self, phase: str) -> tuple[Inbox | None, Outbox | None]:
        inbox = self._endpoint.inbox(-1, _KINDS[phase], slots=2, ahead=1)
        self._links[phase] = inbox, self._endpoint.outbox(+1, _KINDS[phase], depth=2)
        return self._links[phase]
