"""A run as one process of several, if ``layerpipe2 launch`` or ``torchrun`` started it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerpipe2.runtime.strategy import PipelineStrategy


def pipeline_strategy() -> PipelineStrategy | None:
    """The ``Trainer``'s strategy under a launcher, ``None`` in a process of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from layerpipe2.runtime.strategy import PipelineStrategy  # torch.distributed takes a second

    return PipelineStrategy(check_finite=False)  # a diverged run is a result


def is_first_process() -> bool:
    """Whether this process speaks for all and writes the record."""
    return os.environ.get("RANK", "0") == "0"


def processes_used(strategy: PipelineStrategy) -> dict[str, Any]:
    """For the record: the ``number`` of processes, and the ``memory`` of every stage in bytes."""
    return {"number": strategy.world_size, "memory": [asdict(row) for row in strategy.memory]}
