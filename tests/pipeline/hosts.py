"""Several hosts on one machine: network namespaces on a bridge, or loopback addresses where those aren't permitted."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments import hosts as experiments_hosts
from tests.forked import Forked

LIMIT_S = 180.0
REPOSITORY = Path(__file__).parents[2]
TOY = str(Path(__file__).with_name("toy_pipeline.py"))


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A command in the background, with this repository's packages; its output comes by pipes.

    A module is run in a fork of this process, which has imported torch already.
    """
    paths = {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return Forked(list(command), env={**os.environ, **paths, **environment}, **pipes)


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


class Namespaces(experiments_hosts.Namespaces):
    """Hosts with cables; needs root and iproute2."""

    kind = "network namespaces"
    lost_hosts_notice = True

    def command(self, host: int, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.names[host], *command]

    def cut_off(self, host: int, process: subprocess.Popen[str]) -> None:
        """Pull the host's cable."""
        subprocess.run(["ip", "-n", self.switch, "link", "set", f"port{host}", "down"], check=True)


@contextmanager
def hosts(number: int) -> Iterator[Loopback | Namespaces]:
    """Hosts of the kind that this machine permits; says which. ``LAYERPIPE2_HOSTS=loopback`` takes the poorer one."""
    made: Loopback | Namespaces = Namespaces(number)
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
