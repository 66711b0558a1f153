"""Where to train: a device by its name."""

import os

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
