"""What the environment of a process must hold, before CUDA is first used, for transfers between GPUs.

Transfers of NCCL are kernels that wait for each other, so nothing may stop a whole GPU meanwhile. Loading a kernel at
its first use does, unless ``CUDA_MODULE_LOADING=EAGER``; and with few hardware queues (``CUDA_DEVICE_MAX_CONNECTIONS``)
a kernel that waits can stand before another stream's.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SETTINGS = {"CUDA_MODULE_LOADING": "EAGER", "CUDA_DEVICE_MAX_CONNECTIONS": "32"}


def set_missing(environment: MutableMapping[str, str]) -> list[str]:
    """Set what the user hasn't set; returns what that was, as ``NAME=VALUE``."""
    missing = {name: value for name, value in SETTINGS.items() if name not in environment}
    environment.update(missing)
    return [f"{name}={value}" for name, value in missing.items()]
