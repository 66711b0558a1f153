"""The pipeline that options describe, without weights in memory."""

from __future__ import annotations

import torch

from layerpipe2.data import describe
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.plan import Plan, make_plan


def plan_from(config: RunConfig) -> Plan:
    """Stages and delays of a configuration; the parameters are on torch's meta device.

    Raises:
        UserError: on an unknown data set or network, or a grouping or delays that don't fit it.
    """
    spec = describe(config.dataset)
    with torch.device("meta"):  # only shapes are needed
        return make_plan(config, spec.input_shape, spec.num_classes)
