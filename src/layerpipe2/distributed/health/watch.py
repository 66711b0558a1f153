"""Who looks after the other processes while this one waits for them."""

from __future__ import annotations

from layerpipe2.errors import UserError


class Watch:
    """Looks after nobody; :class:`layerpipe2.distributed.health.watchdog.Watchdog` does."""

    def progress(self, step: int) -> None:
        """This process got on, and is at ``step``."""

    def waiting(self, peer: int | None) -> None:
        """This process waits for ``peer`` from now on, or for nobody."""

    def explain(self, error: BaseException) -> str:
        """One line on why a transfer failed: which rank, and what became of it."""
        return f"a transfer failed: {error}"


class PeerLost(UserError):
    """A neighbour is gone, or did not answer in time."""
