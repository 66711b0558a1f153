"""Hosts on one machine: network namespaces on a bridge, with addresses of their own and, if wanted, slow links."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAMESPACES = Path("/run/netns")
_NETWORK = 0x40000000  # CLONE_NEWNET


class Namespaces:
    """Hosts with an interface ``eth0`` each, cabled to a switch; needs root and iproute2."""

    interface = "eth0"

    def __init__(self, number: int) -> None:
        self.switch = f"lp2-{os.getpid()}-switch"
        self.names = [f"lp2-{os.getpid()}-{i}" for i in range(number)]

    def set_up(self) -> None:
        """Make them.

        Raises:
            CalledProcessError, OSError: where it isn't permitted; call :meth:`tear_down` all the same.
        """
        _run("ip", "netns", "add", self.switch)
        _run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self.switch, "link", "set", "br0", "up")
        for i, host in enumerate(self.names):
            _run("ip", "netns", "add", host)
            cable = ("eth0", "netns", host, "type", "veth", "peer", "name", f"port{i}", "netns", self.switch)
            _run("ip", "link", "add", *cable)
            _run("ip", "-n", self.switch, "link", "set", f"port{i}", "master", "br0", "up")
            _run("ip", "-n", host, "address", "add", f"{self.address(i)}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _run("ip", "-n", host, "link", "set", interface, "up")

    def tear_down(self) -> None:
        """Remove them, with their cables."""
        for name in (*self.names, self.switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def address(self, host: int) -> str:
        """Return the address of a host's ``eth0``."""
        return f"10.77.0.{host + 1}"

    def limit(self, gigabits: float) -> None:
        """Let no host send more than so many Gbit/s, with a token bucket filter (``tc-tbf``).

        The bucket holds what the link carries in 1 ms, at most 125 kB, so that single messages are held up, too.
        """
        burst = min(max(int(gigabits * 1e9 / 8 / 1000), 2000), 125_000)  # bytes; at least a frame
        for host in self.names:
            bucket = ("tbf", "rate", f"{gigabits * 1e3:g}mbit", "burst", str(burst), "latency", "200ms")
            _run("tc", "-n", host, "qdisc", "replace", "dev", "eth0", "root", *bucket)


@contextmanager
def limited_hosts(number: int) -> Iterator[Namespaces | None]:
    """Namespaces whose links can be limited, or None, with a line that says why not."""
    made = Namespaces(number)
    try:
        try:
            made.set_up()
            made.limit(1)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = " ".join(str(getattr(error, "stderr", "") or error).split())
            print(f"no hosts with limited links ({reason}); they need root, iproute2 and tc's tbf")
            yield None
        else:
            yield made
    finally:
        made.tear_down()


def enter(host: str) -> None:
    """Let this thread, and those that it starts, see the network of a namespace alone.

    Raises:
        OSError: if there is none of that name, or it isn't permitted.
    """
    with (_NAMESPACES / host).open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {host}")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
