"""Who looks after the other processes while this one waits for them."""

from __future__ import annotations

from typing import Protocol

from layerpipe2.errors import UserError


class Watch(Protocol):
    """Who looks after the other processes; see :mod:`layerpipe2.distributed.health.watchdog`."""

    def progress(self, step: int) -> None:
        """This process got on, and is at ``step``."""

    def waiting(self, peer: int | None) -> None:
        """This process waits for ``peer`` from now on, or for nobody."""

    def explain(self, error: BaseException) -> str:
        """One line on why a transfer failed: which rank, and what became of it."""


class Unwatched:
    """Looks after nobody."""

    def progress(self, step: int) -> None:
        """Not noted."""

    def waiting(self, peer: int | None) -> None:
        """Not noted."""

    def explain(self, error: BaseException) -> str:
        """What the transfer says of itself."""
        return f"a transfer failed: {error}"


class PeerLost(UserError):
    """A neighbour is gone, or did not answer in time."""
