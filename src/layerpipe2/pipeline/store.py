"""The ranks' common key-value store (torch's ``TCPStore``): opening it, signed posts on it, the notice that ends all.

The store takes anything from anybody who can connect to it, lists its keys and has them deleted. So a post of ours is
signed with the job's secret, and what isn't is as if it weren't there.
"""

import hmac
import os
import socket
import time
from collections.abc import Collection, Iterable
from datetime import timedelta
from errno import EADDRINUSE
from ipaddress import ip_address
from typing import Any

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]

from layerpipe2.errors import UserError
from layerpipe2.pipeline.environment import SECRET

_POLL_S = 0.05


def host_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """A store served by this process at ``host:port``; port 0 takes a free one. Shared if this process has it already.

    It is open to this machine alone if ``host`` is an address of the loopback interface, else on all interfaces.

    Raises:
        UserError: if the port is taken.
    """
    options: dict[str, Any] = {"is_master": True, "wait_for_workers": False, "multi_tenant": True}
    try:
        if _is_loopback(host):
            with socket.create_server((host, port)) as server:
                port = server.getsockname()[1]
                options["master_listen_fd"] = server.detach()
        return TCPStore(host, port, timeout=timedelta(seconds=timeout_s), **options)
    except (DistError, OSError) as error:
        if "EADDRINUSE" in str(error) or getattr(error, "errno", None) == EADDRINUSE:
            raise UserError(f"port {port} of {host} is taken by another program; give another port") from None
        raise UserError(f"port {port} of {host} can't be opened: {first_line(error)}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


class SignedPosts:
    """Texts that the members of a job post for each other at ``place``, each under its name.

    With every text goes a code (HMAC-SHA256) of the job's secret, the place, the name and the text. A stranger can
    delete a post or put an old one or nonsense in its place, but post nothing of his own.
    """

    def __init__(self, store: Store, place: str) -> None:
        self._store, self._place, self._secret = store, place, os.environ.get(SECRET, "").encode()

    def post(self, name: str, text: str) -> None:
        """Post ``text``, in the place of an earlier one."""
        self._store.set(self._key(name), self._signed(name, text))

    def claim(self, name: str, text: str) -> str:
        """Post ``text`` unless there is one; returns the one that holds."""
        held: Any = b""
        for _ in range(2):  # the second time in the place of a stranger's
            held = self._store.compare_set(self._key(name), held, self._signed(name, text))
            if (found := self._checked(name, held)) is not None:
                return found
        return text

    def read(self, names: Iterable[str]) -> dict[str, str | None]:
        """The posts that are there, by name; None: not signed with this job's secret."""
        there = list(names)
        if not self._store.check(list(map(self._key, there))):
            there = [name for name in there if self._store.check([self._key(name)])]
        posts = self._store.multi_get(list(map(self._key, there)))
        return {name: self._checked(name, post) for name, post in zip(there, posts, strict=True)}

    def within(self, name: str, member: int) -> "SignedPosts":
        """Posts of this time below: the same for all members that have asked as often."""
        return SignedPosts(self._store, self._key(f"{name}/{self._store.add(self._key(f'{name} of {member}'), 1)}"))

    def _key(self, name: str) -> str:
        return f"{self._place}/{name}"

    def _signed(self, name: str, text: str) -> str:
        message = f"{len(self._key(name))} {self._key(name)} {text}".encode()
        return f"{hmac.digest(self._secret, message, 'sha256').hex()} {text}"

    def _checked(self, name: str, post: bytes) -> str | None:
        text = post.decode(errors="replace").partition(" ")[2]
        return text if hmac.compare_digest(post, self._signed(name, text).encode()) else None


class Notice:
    """Why all members of a job end: the first reason that is posted stays, and all say the same.

    A member acknowledges before it ends. Whoever serves the store waits for that before it ends, too, so that no one
    finds the store gone instead of the reason.
    """

    def __init__(self, store: Store, member: str = "rank") -> None:
        self._signed = SignedPosts(store, f"layerpipe2/{member}s")

    def propose(self, reason: str) -> str:
        """Post ``reason`` unless there is one; returns the one that holds."""
        return self._signed.claim("reason", reason)

    def read(self) -> str | None:
        """The reason, if there is one."""
        return self._signed.read(["reason"]).get("reason")

    def acknowledge(self, who: str) -> None:
        """Say that ``who`` knows the reason and ends."""
        self._signed.post(f"known/{who}", "")

    def may_say(self, machine: str, who: str) -> bool:
        """Whether ``who`` is the first of its machine to say it, so that a launcher shows one line."""
        return self._signed.claim(f"said/{machine}", who) == who

    def linger(self, others: Collection[str], limit_s: float) -> None:
        """Wait until all ``others`` know, at most ``limit_s`` seconds (those that failed never will)."""
        known, end = [f"known/{who}" for who in others], time.monotonic() + limit_s
        while None in map(self._signed.read(known).get, known) and time.monotonic() < end:
            time.sleep(_POLL_S)
