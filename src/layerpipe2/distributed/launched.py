"""A run as one process of several, if ``layerpipe2 launch`` or ``torchrun`` started it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from layerpipe2.distributed.strategy import PipelineStrategy


def pipeline_strategy(*, resumable: bool) -> PipelineStrategy | None:
    """The ``Trainer``'s strategy under a launcher, ``None`` in a process of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return PipelineStrategy(check_finite=False, resumable=resumable)  # a diverged run is a result


def processes_used(strategy: PipelineStrategy) -> dict[str, Any]:
    """For the record: the ``number`` of processes, and the ``memory`` of every stage in bytes."""
    return {"number": strategy.processes, "memory": [asdict(row) for row in strategy.memory]}
