"""The network interface through which this machine reaches node 0: gloo would take the one of its host name."""

from __future__ import annotations

import socket
import struct

_SIOCGIFADDR = 0x8915  # linux/sockios.h


def interface_towards(host: str) -> str | None:
    """Name of the interface, or None where it can't be found out (no route, no IPv4, not Linux)."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            own = probe.getsockname()[0]
            if own.startswith("127."):
                own = "127.0.0.1"
            return next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), None)
    except OSError:
        return None


def _address(probe: socket.socket, interface: str) -> str | None:
    from fcntl import ioctl

    try:
        answer = ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:
        return None  # it has no address
    return socket.inet_ntoa(answer[20:24])
