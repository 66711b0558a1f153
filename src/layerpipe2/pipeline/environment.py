"""What the environment of a rank must hold before torch looks at it: for transfers, for threads, for quiet ends."""

import os
import socket
import struct
from collections.abc import MutableMapping

GPU_SETTINGS = {"CUDA_MODULE_LOADING": "EAGER", "CUDA_DEVICE_MAX_CONNECTIONS": "32"}
"""For transfers between GPUs, before CUDA is first used.

Transfers of NCCL are kernels that wait for each other, so nothing may stop a whole GPU meanwhile. Loading a kernel at
its first use does, unless ``CUDA_MODULE_LOADING=EAGER``; and with few hardware queues (``CUDA_DEVICE_MAX_CONNECTIONS``)
a kernel that waits can stand before another stream's.
"""

SECRET = "LAYERPIPE2_SECRET"
"""Name of the variable with the job's secret, with which its processes sign what they post for each other."""

_SIOCGIFADDR = 0x8915  # linux/sockios.h


def set_missing_gpu_settings(environment: MutableMapping[str, str]) -> list[str]:
    """Set what the user hasn't set of :data:`GPU_SETTINGS`; returns what that was, as ``NAME=VALUE``."""
    missing = {name: value for name, value in GPU_SETTINGS.items() if name not in environment}
    environment.update(missing)
    return [f"{name}={value}" for name, value in missing.items()]


def set_missing(environment: MutableMapping[str, str], processes: int, host: str) -> None:
    """Set what a launcher's ranks inherit and the user hasn't set; ``processes`` share this machine's cores.

    gloo would take the network interface of the machine's own name; here it gets the one towards ``host``. torch would
    add a C++ stack to the one line that tells of a lost connection.
    """
    set_missing_gpu_settings(environment)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if (interface := interface_towards(host)) is not None:
        environment.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_towards(host: str) -> str | None:
    """Name of this machine's network interface, or None where it can't be found out (no route, no IPv4, not Linux)."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            own = probe.getsockname()[0]
            own = "127.0.0.1" if own.startswith("127.") else own
            return next((name for _, name in socket.if_nameindex() if _address_of(probe, name) == own), None)
    except OSError:
        return None


def _address_of(probe: socket.socket, interface: str) -> str | None:
    from fcntl import ioctl

    try:
        answer = ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:
        return None  # it has no address
    return socket.inet_ntoa(answer[20:24])
