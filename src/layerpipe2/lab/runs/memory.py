"""Whether a run can fit into memory at all: else it is refused at once, not ended by the system in the middle."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import nn

from layerpipe2.engine.device import resolve_device
from layerpipe2.errors import UserError
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig

_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may take of the machine's memory, in bytes, or ``max``."""


def check_memory(
    config: RunConfig, stages: Sequence[nn.Sequential], delays: Sequence[int], input_shape: tuple[int, ...]
) -> None:
    """Refuse what is certainly too large for the device; ``stages`` are on torch's meta device, without weights.

    Raises:
        UserError: with the bytes that it takes at least and those that there are; or if a unit refuses its input.
    """
    least, most = _least(config, stages, delays, input_shape), _memory(resolve_device(config.device))
    if least > most:
        width = NETWORKS[config.network].default_width if config.width is None else config.width
        raise UserError(
            f"network {config.network} of width {width}, batch_size {config.batch_size} and delays of up to "
            f"{max(delays)} updates need {least / 1e9:,.1f} GB of memory or more, and there are "
            f"{most / 1e9:,.1f}; give smaller ones"
        )


def _least(
    config: RunConfig, stages: Sequence[nn.Sequential], delays: Sequence[int], input_shape: tuple[int, ...]
) -> int:
    """Bytes: weights, gradients, the optimizer's state and the delay lines, and what the units hand on in a step.

    Of a pipeline of several processes only the weights count, since each builds all of them and keeps its part.
    """
    sizes = [sum(p.numel() for p in stage.parameters()) for stage in stages]
    wide = 8 if config.precision == "float64" else 4
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return wide * sum(sizes)
    state = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    copies = sum(size * (2 + state + delay) for size, delay in zip(sizes, delays, strict=True))
    dtype = torch.float32 if NETWORKS[config.network].takes == "images" else torch.int64
    x, handed_on = torch.empty(config.batch_size, *input_shape, dtype=dtype, device="meta"), 0
    for number, unit in enumerate(unit for stage in stages for unit in stage):
        try:
            x = unit(x)
        except (RuntimeError, ValueError) as error:  # as batch normalisation does of a single value per channel
            what = f"unit {number} of network {config.network} refuses batches of shape {list(x.shape)}"
            raise UserError(f"{what} ({' '.join(str(error).split())}); give another batch_size or network") from None
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
