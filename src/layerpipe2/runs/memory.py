"""Whether a run can fit into memory at all: else it is refused at once, not ended by the system in the middle."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from layerpipe2.engine.device import resolve_device
from layerpipe2.errors import UserError
from layerpipe2.networks import NETWORKS

if TYPE_CHECKING:
    from layerpipe2.runs.plan import Plan

_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may take of the machine's memory, in bytes, or ``max``."""


def check_memory(plan: Plan, input_shape: tuple[int, ...]) -> None:
    """Refuse what is certainly too large for the device of ``plan``, which has no weights in memory yet.

    Raises:
        UserError: with the bytes that it takes at least and those that there are.
    """
    least, most = least_memory(plan, input_shape), _memory(resolve_device(plan.config.device))
    if least > most:
        config = plan.config
        width = NETWORKS[config.network].default_width if config.width is None else config.width
        raise UserError(
            f"network {config.network} of width {width}, batch_size {config.batch_size} and delays of up to "
            f"{max(plan.delays.per_stage)} updates need {least / 1e9:,.1f} GB of memory or more, and there are "
            f"{most / 1e9:,.1f}; give smaller ones"
        )


def least_memory(plan: Plan, input_shape: tuple[int, ...]) -> int:
    """Bytes: weights, gradients, the optimizer's state and the delay lines, and what the units hand on in a step.

    Of a pipeline of several processes only the weights count, since each builds all of them and keeps its part.
    """
    config, sizes = plan.config, plan.parameters_per_stage
    wide = 8 if config.precision == "float64" else 4
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return wide * sum(sizes)
    state = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    copies = sum(size * (2 + state + delay) for size, delay in zip(sizes, plan.delays.per_stage, strict=True))
    dtype = torch.float32 if NETWORKS[config.network].takes == "images" else torch.int64
    x, handed_on = torch.empty(config.batch_size, *input_shape, dtype=dtype, device="meta"), 0
    for unit in (unit for stage in plan.stages for unit in stage):
        x = unit(x)
        handed_on += x.numel()
    return wide * copies + (2 if config.precision == "bf16" else wide) * handed_on


@cache
def _memory(device: torch.device) -> int:
    """Bytes of the device: of a CPU those of the machine, or of the container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine
