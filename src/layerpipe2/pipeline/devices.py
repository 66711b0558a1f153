"""Which device a process has to itself, and by which way its messages go from there."""

import os
import warnings
from typing import Any

import torch

from layerpipe2.engine.device import resolve_device
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl
from layerpipe2.pipeline.environment import set_missing_gpu_settings


def own_device(accelerator: Any) -> torch.device:
    """The device of this process; GPUs are dealt out in turn to those that a launcher started on a machine.

    Raises:
        UserError: if every kernel is to block the host (``CUDA_LAUNCH_BLOCKING``), while transfers go from GPU to GPU.
    """
    if not isinstance(accelerator, pl.accelerators.CUDAAccelerator):
        return torch.device("cpu")
    device = resolve_device("cuda")
    if transport_of(device) != "nccl":
        return device
    if os.environ.get("CUDA_LAUNCH_BLOCKING", "0") != "0":
        raise UserError(
            "CUDA_LAUNCH_BLOCKING has a process wait for its transfer, whose counterpart then waits for the process; "
            "unset it, or look for the mistake with one process"
        )
    late = set_missing_gpu_settings(os.environ)
    if late and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        remedy = "set it in the environment, or transfers between GPUs may wait for ever (docs/cluster.md)"
        warnings.warn(f"{' '.join(late)} comes too late, CUDA has been used before; {remedy}", stacklevel=2)
    return device


def describe(device: torch.device, processes: int) -> str | None:
    """What a user should know about the way of the messages; ``None``: nothing."""
    if device.type != "cuda":
        return None
    if transport_of(device) == "nccl":
        return (
            f"{processes} processes on GPUs, messages by NCCL, which this project had no two GPUs to test on: run "
            "`layerpipe2 check` first, and compare a short training with the simulation (docs/cluster.md)"
        )
    return "several processes share a GPU: messages pass the host's memory, and nothing becomes faster by it"


def transport_of(device: torch.device) -> str:
    """``nccl`` if each process of this machine has a GPU of its own, else ``gloo``, by way of the host's memory."""
    if device.type != "cuda":
        return "gloo"
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
    return "nccl" if alone and torch.distributed.is_nccl_available() else "gloo"
