"""When torch's own pipelines compute: their stages' passes, wrapped from outside.

The same words as those of ``layerpipe2.distributed.worker_loop``: ``forward`` and ``backward`` of a micro-batch, and
``weights`` for gradients of weights computed apart and for the update. What lies between them is waiting, messages and
torch's own administration. The number of an event is that of the mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.distributed.pipelining import PipelineStage

from layerpipe2.distributed.timeline import Timeline

_PASSES = {
    "forward_one_chunk": "forward",
    "backward_one_chunk": "backward",
    "backward_weight_one_chunk": "weights",
}


class PassTimes:
    """Writes the passes of watched stages, and the updates, to a timeline; without one, nothing is wrapped."""

    def __init__(self, timeline: Timeline | None) -> None:
        self._timeline, self._batch = timeline, 0

    def watch(self, stage: PipelineStage) -> None:
        """Replace the passes of this stage by ones that take their times."""
        if self._timeline is not None:
            for method, what in _PASSES.items():
                setattr(stage, method, self._timed(self._timeline, getattr(stage, method), what, stage.stage_index))

    def update(self, stage: int) -> AbstractContextManager[None]:
        """A span for the update at the end of the mini-batch."""
        batch, self._batch = self._batch, self._batch + 1
        return nullcontext() if self._timeline is None else self._timeline.span("weights", stage, batch)

    def _timed(self, timeline: Timeline, work: Callable[..., Any], what: str, stage: int) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with timeline.span(what, stage, self._batch):
                return work(*arguments, **keywords)

        return timed
