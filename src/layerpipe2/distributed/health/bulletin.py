"""A launcher's ear and voice on the store: it must never wait for it, because the store's host may be cut off."""

from __future__ import annotations

import threading
import time

from torch.distributed import DistError

from layerpipe2.distributed.store import Notice, join_store, watch_count
from layerpipe2.errors import UserError

_INTERVAL_S = 0.5
_PATIENCE_S = 3.0


class Bulletin:
    """Reads the verdict that ends all ranks, and posts this node's own, in a thread.

    Args:
        host: address of the store.
        port: its port.
        node: this node's number; node 0 serves the store.
        nodes: number of nodes.
    """

    def __init__(self, host: str, port: int, node: int, nodes: int) -> None:
        self.verdict: str | None = None
        self.watched = False  # the ranks have watchdogs
        self._host, self._port, self._node, self._nodes = host, port, node, nodes
        self._proposal: str | None = None
        self._leaving = False
        self._wake, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._talk, daemon=True).start()

    def tell(self, verdict: str) -> None:
        """Post ``verdict`` unless there is one already; gives up after a few seconds if the store doesn't answer."""
        if self.verdict is None:
            self._proposal = verdict
            self._wake.set()
            end = time.monotonic() + _PATIENCE_S
            while self.verdict is None and time.monotonic() < end:
                time.sleep(0.01)
            self.verdict = self.verdict or verdict

    def leave(self, timeout_s: float) -> None:
        """The ranks here have ended. Node 0 returns when all nodes have left, so that nobody misses the store.

        That takes at most ``timeout_s`` seconds; if there is a verdict, a few.
        """
        self._leaving = True
        self._wake.set()
        end = time.monotonic() + timeout_s
        known: float | None = None
        while not self._done.wait(0.05) and time.monotonic() < end:
            known = known or (time.monotonic() if self.verdict else None)
            if known is not None and time.monotonic() - known > 2 * _PATIENCE_S:
                break

    def _talk(self) -> None:
        try:
            store = join_store(self._host, self._port, _PATIENCE_S)
            notice, others = Notice(store), [f"node {n}" for n in range(self._nodes) if n != self._node]
            while True:
                leaving = self._leaving
                self.verdict = notice.propose(self._proposal) if self._proposal else notice.read()
                self.watched = self.watched or store.check([watch_count(0)])
                if leaving:
                    notice.acknowledge(f"node {self._node}")
                if leaving and (self._node or notice.all_know(others)):
                    break
                self._wake.wait(_INTERVAL_S / 5 if leaving else _INTERVAL_S)
                self._wake.clear()
        except (DistError, UserError):
            self.verdict = (
                self.verdict or f"the launcher of node 0, with the store at {self._host}:{self._port}, is gone"
            )
        self._done.set()
