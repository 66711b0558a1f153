"""Where to train: a device by its name, and its name in words."""

import os
import platform

import torch

from layerpipe2.errors import UserError


def resolve_device(name: str) -> torch.device:
    """``auto`` takes a CUDA device if there is one; a process that a launcher started on a machine takes one in turn.

    Raises:
        UserError: if ``cuda`` is asked for and missing.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' isn't available here; use device 'cpu' or 'auto'")
    use_cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    if not use_cuda:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def device_name(device: torch.device) -> str:
    """The device in words, as in ``cpu (x86_64)`` or ``NVIDIA H100 80GB HBM3``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
