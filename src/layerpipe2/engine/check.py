"""What a pipeline can be made of: looked at when a module is made, long before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layerpipe2.delays import Delays
from layerpipe2.engine.layout import Layout, trainable
from layerpipe2.engine.swap import check_replaceable
from layerpipe2.errors import UserError
from layerpipe2.stages import check_stages


def check_pipeline(stages: Sequence[nn.Module], delays: Delays, compute_dtype: torch.dtype | None) -> None:
    """Refuse what no :class:`layerpipe2.engine.step.PipelineEngine` can train; no memory is taken.

    Raises:
        UserError: if the delays do not fit the stages, or a stage cannot be laid out.
    """
    check_stages(stages)
    if len(stages) != delays.num_stages:
        raise UserError(
            f"there are {delays.num_stages} delays but the network has {len(stages)} stages; give one delay per stage"
        )
    for k in delayed_stages(stages, delays, compute_dtype):
        Layout.of(stages[k], k)
        check_replaceable(stages[k], k)


def delayed_stages(stages: Sequence[nn.Module], delays: Delays, compute_dtype: torch.dtype | None) -> list[int]:
    """Numbers of the stages that run forward with compute weights, not with the parameters themselves."""
    return [
        k
        for k, (stage, delay) in enumerate(zip(stages, delays.per_stage, strict=True))
        if (delay or compute_dtype) and any(trainable(p) for p in stage.parameters())
    ]
