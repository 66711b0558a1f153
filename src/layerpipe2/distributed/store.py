"""The ranks' common key-value store (torch's ``TCPStore``): opening it, and the notice on it that ends all ranks."""

import os
import socket
import time
from collections.abc import Collection
from datetime import timedelta

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]

from layerpipe2.errors import UserError

_REASON = "layerpipe2/reason"
_POLL_S = 0.05


def host_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """A store served by this process at ``host:port``; port 0 takes a free one. Shared if this process has it already.

    Raises:
        UserError: if the port is taken.
    """
    options = {"is_master": True, "wait_for_workers": False, "multi_tenant": True}
    try:
        return TCPStore(host, port, timeout=timedelta(seconds=timeout_s), **options)
    except DistError as error:
        if "EADDRINUSE" in str(error):
            raise UserError(f"port {port} of {host} is taken by another program; give another port") from None
        raise UserError(f"port {port} of {host} can't be opened: {first_line(error)}") from None


def join_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """A connection of its own to the store at ``host:port``; not to be shared between threads.

    Raises:
        UserError: if nobody serves it for ``timeout_s`` seconds.
    """
    reason = _wait_for_server(host, port, timeout_s)
    try:
        if reason is None:
            return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    except DistError as error:
        reason = first_line(error)
    raise UserError(
        f"rank 0, or node 0's launcher, never came: nothing answered at {host}:{port} for {timeout_s:g} s ({reason}); "
        "start it there, and check address, port and firewall"
    )


def _wait_for_server(host: str, port: int, timeout_s: float) -> str | None:
    # torch's own attempts can't be interrupted and log every failure.
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.2, min(timeout_s, 5.0))).close()
            return None
        except OSError as error:
            if time.monotonic() > end:
                return str(error)
        time.sleep(4 * _POLL_S)


def agent_hosts_store() -> bool:
    """Whether the launcher, not rank 0, serves the store of this process group (torchrun's own convention)."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def first_line(error: BaseException) -> str:
    """An error's message in one line."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Notice:
    """Why all ranks end: the first reason that is posted stays, and all say the same.

    A rank acknowledges before it ends. Whoever serves the store waits for that before it ends, too, so that no rank
    finds the store gone instead of the reason.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def propose(self, reason: str) -> str:
        """Post ``reason`` unless there is one; returns the one that holds."""
        return str(self._store.compare_set(_REASON, "", reason).decode())

    def read(self) -> str | None:
        """The reason, if there is one."""
        return str(self._store.get(_REASON).decode()) if self._store.check([_REASON]) else None

    def acknowledge(self, who: str) -> None:
        """Say that ``who`` knows the reason and ends."""
        self._store.set(f"{_REASON}/known/{who}", "")

    def may_say(self, machine: str, who: str) -> bool:
        """Whether ``who`` is the first of its machine to say it, so that a launcher shows one line."""
        return str(self._store.compare_set(f"{_REASON}/said/{machine}", "", who).decode()) == who

    def linger(self, others: Collection[str], limit_s: float) -> None:
        """Wait until all ``others`` know, at most ``limit_s`` seconds (those that failed never will)."""
        known, end = [f"{_REASON}/known/{who}" for who in others], time.monotonic() + limit_s
        while known and not self._store.check(known) and time.monotonic() < end:
            time.sleep(_POLL_S)
