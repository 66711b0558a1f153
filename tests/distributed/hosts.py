"""Several hosts on one machine: network namespaces on a bridge, or loopback addresses where those aren't permitted."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 180.0
REPOSITORY = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name("toy_pipeline.py"))


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A command in the background, with this repository's packages; its output comes by pipes."""
    paths = {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env={**os.environ, **paths, **environment}, **pipes)


class Loopback:
    """Addresses of the loopback interface; what can't be cut off can be stopped, which looks the same from outside."""

    kind = "loopback addresses"
    interface = "lo"
    lost_hosts_notice = False  # they are stopped

    def set_up(self) -> None:
        """Nothing to do."""

    def tear_down(self) -> None:
        """Nothing to do."""

    def address(self, host: int) -> str:
        return f"127.0.0.{host + 2}"

    def command(self, host: int, *command: str) -> list[str]:
        return list(command)

    def cut_off(self, host: int, process: subprocess.Popen[str]) -> None:
        """Stop the launcher and its ranks."""
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, ranks)):
            os.kill(pid, signal.SIGSTOP)


class Namespaces(Loopback):
    """Hosts with an interface ``eth0`` each, cabled to a switch; needs root and iproute2."""

    kind = "network namespaces"
    interface = "eth0"
    lost_hosts_notice = True

    def __init__(self, number: int) -> None:
        self._switch = f"lp2-{os.getpid()}-switch"
        self._hosts = [f"lp2-{os.getpid()}-{i}" for i in range(number)]

    def set_up(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for i, host in enumerate(self._hosts):
            _ip("netns", "add", host)
            cable = ("eth0", "netns", host, "type", "veth", "peer", "name", f"port{i}", "netns", self._switch)
            _ip("link", "add", *cable)
            _ip("-n", self._switch, "link", "set", f"port{i}", "master", "br0", "up")
            _ip("-n", host, "address", "add", f"{self.address(i)}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", host, "link", "set", interface, "up")

    def tear_down(self) -> None:
        for name in (*self._hosts, self._switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def command(self, host: int, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self._hosts[host], *command]

    def cut_off(self, host: int, process: subprocess.Popen[str]) -> None:
        """Pull the host's cable."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "down")


@contextmanager
def hosts(number: int) -> Iterator[Loopback]:
    """Hosts of the kind that this machine permits; says which. ``LAYERPIPE2_HOSTS=loopback`` takes the poorer one."""
    made: Loopback = Namespaces(number)
    try:
        if os.environ.get("LAYERPIPE2_HOSTS") == "loopback":
            raise PermissionError("asked for")
        made.set_up()
    except (OSError, subprocess.CalledProcessError) as error:
        made.tear_down()
        print(f"no network namespaces here ({error})")
        made = Loopback()
    print(f"hosts: {number} {made.kind}")
    try:
        yield made
    finally:
        made.tear_down()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
