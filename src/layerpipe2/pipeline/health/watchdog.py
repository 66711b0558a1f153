"""A thread in every rank that ends the process, with one line, when any rank has failed."""

import atexit
import json
import os
import threading
import time

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from layerpipe2.pipeline.health.diagnosis import Peers, Post
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.store import Notice, SignedPosts, agent_hosts_store, first_line, join_store

_EXIT_CODE = 2
_LINGER_S = 0.5  # beside two intervals: for the others to read the reason
_EXPLAIN_S = 2.0  # beside eight intervals: for the others to say why they went, or to be missed


class Watchdog(Watch):
    """Watches over all ranks from within this one, over its own connection to the store at ``host:port``.

    Every ``interval_s`` seconds it posts a beat, the main thread's step and the rank that it waits for, and reads the
    others' posts. When a rank has failed, is dead, stopped or cut off, hangs, or never came, it prints
    ``layerpipe2: rank 1 (stage 1, host h) hangs: no progress for 30 s at step 512; all ranks end`` and ends this
    process with exit code 2, whatever the main thread is stuck in (nothing is flushed, no handler runs). All ranks
    say the same: the first reason on the store holds. One watchdog at a time per process.

    Args:
        host: address of the store, ``MASTER_ADDR``.
        port: its port, ``MASTER_PORT``.
        rank: this process's rank.
        world_size: number of ranks.
        timeout_s: a rank without a sign of life, or without progress while it waits for nobody, has failed after so
            long. Longer than the longest time between two calls of :meth:`progress` (a checkpoint, a validation).
        label: this rank in words, such as ``stage 1, host h``.
        interval_s: time between beats; a timeout below four of them is taken as four.
    """

    def __init__(
        self, host: str, port: int, rank: int, world_size: int, *, timeout_s: float, label: str, interval_s: float = 1.0
    ) -> None:
        self._host, self._port, self._rank, self._world_size = host, port, rank, world_size
        self._label, self._interval_s, self._timeout_s = label, interval_s, max(timeout_s, 4 * interval_s)
        self._peers = Peers(world_size, self._timeout_s, interval_s)
        self._step = self._moves = self._beat = 0
        self._waiting_for: int | None = None
        self._failure: str | None = None
        self._closing = self._impatient = False
        self._wake, self._over, self._ending = threading.Event(), threading.Event(), threading.Lock()
        # A torchrun agent is this process's parent; that it died is a reason to end. A shell may go.
        self._agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        atexit.register(self._left_early)
        for work in (self._talk, self._check_on_store):
            threading.Thread(target=work, name=f"layerpipe2{work.__name__}", daemon=True).start()

    def progress(self, step: int) -> None:
        """The main thread is at ``step`` and has got on since the last call, if only within it; costs an addition."""
        self._step = step
        self._moves += 1

    def waiting(self, peer: int | None) -> None:
        """The main thread waits for the rank ``peer``, or ``EVERYONE``, from now on; None: it works."""
        self._waiting_for = peer

    def fail(self, message: str) -> None:
        """Tell the others in one line why this rank ends; returns when they know. The caller then raises its error.

        Under a launcher it doesn't return where another rank of this machine has the same to say.
        """
        self._failure = message
        self._stop()

    def close(self) -> None:
        """Training has ended in order. Rank 0 returns when all ranks have said so, the others at once."""
        self._closing = True
        self._stop(wait_s=None)

    def explain(self, error: BaseException) -> str:
        """One line for an error of a connection, whose cause is another rank's end.

        Gives the others a few seconds to say, or to be missed: then the process ends here, with the true cause. Only
        if no rank has failed it returns.
        """
        self._impatient = True
        self._wake.set()
        self._over.wait(8 * self._interval_s + _EXPLAIN_S)
        self._impatient = False
        return f"rank {self._rank} ({self._label}) lost a connection though every rank is alive: {first_line(error)}"

    def _stop(self, wait_s: float | None = 5.0) -> None:
        atexit.unregister(self._left_early)
        self._wake.set()
        self._over.wait(wait_s)

    def _left_early(self) -> None:
        self.fail("ended before its training did; its own messages say why")

    def _talk(self) -> None:
        try:
            self._watch(join_store(self._host, self._port, self._timeout_s))
        except DistError as error:
            self._end(f"{self._host_of_store()} is gone: {first_line(error)}")
        except ValueError as error:
            self._end(str(error))

    def _watch(self, store: TCPStore) -> None:
        notice = Notice(store)
        # A process may train several times over one store: its posts of last time aren't this time's.
        signed = SignedPosts(store, "layerpipe2/ranks").within("watch", self._rank)
        looked = time.monotonic()
        while True:
            closing, failure = self._closing, self._failure
            self._beat += 1
            post = Post(self._label, self._beat, self._moves, self._step, self._waiting_for, done=closing)
            signed.post(str(self._rank), json.dumps(post))
            if failure is not None:
                held = notice.propose(f"rank {self._rank} ({self._label}): {failure}")
                # Its own error says it, unless another one of this machine says just the same.
                if not self._first_on_machine(notice) and held.endswith(f": {failure}"):
                    self._end(held, notice)
                self._leave(notice)
                return self._over.set()
            if closing and self._rank:
                return self._over.set()  # rank 0 may be gone with the store as soon as it reads this post
            now = time.monotonic()
            self._peers.look(self._read(signed), now - looked)
            looked = now
            reason = notice.read() or self._peers.diagnosis(self._impatient)
            if reason is not None:
                self._end(notice.propose(reason), notice)
            if closing and self._peers.others_done(self._rank):
                return self._over.set()
            self._wake.wait(self._interval_s / 4 if closing else self._interval_s)
            self._wake.clear()

    def _read(self, signed: SignedPosts) -> dict[int, Post]:
        posts = signed.read(map(str, range(self._world_size)))
        return {int(rank): Post(*json.loads(text)) for rank, text in posts.items() if text is not None}

    def _check_on_store(self) -> None:
        """A call of the store may never return (its host is stopped or cut off), hence a second thread."""
        beat, stalled, looked = self._beat, 0.0, time.monotonic()
        while not self._over.wait(self._interval_s):
            now = time.monotonic()
            stalled = stalled + min(now - looked, 2 * self._interval_s) if self._beat == beat else 0.0
            beat, looked = self._beat, now
            if self._agent is not None and os.getppid() != self._agent:
                self._end(f"the launcher of rank {self._rank} ({self._label}) is gone")
            if stalled >= self._timeout_s + self._interval_s:
                self._end(f"{self._host_of_store()} gives no sign for {self._timeout_s:g} s: stopped or cut off")

    def _host_of_store(self) -> str:
        who = f"the launcher of {self._peers.name(0)}" if agent_hosts_store() else self._peers.name(0)
        return f"{who}, with the store at {self._host}:{self._port},"

    def _end(self, reason: str, notice: Notice | None = None) -> None:
        if not self._ending.acquire(blocking=False):
            return  # the other thread is at it
        try:
            if notice is None or self._first_on_machine(notice):
                os.write(2, f"layerpipe2: {reason}; all ranks end\n".encode())
            if notice is not None:
                self._leave(notice)
        finally:
            os._exit(_EXIT_CODE)

    def _first_on_machine(self, notice: Notice) -> bool:
        """A launcher shows what all its ranks say; without one, each rank is heard alone."""
        machine = os.environ.get("GROUP_RANK")
        try:
            return machine is None or notice.may_say(machine, str(self._rank))
        except DistError:
            return True

    def _leave(self, notice: Notice) -> None:
        """Let the others know that this rank knows; if this process may serve the store, let them read first."""
        notice.acknowledge(str(self._rank))
        if self._rank == 0:
            others = [str(rank) for rank in range(1, self._world_size)]
            notice.linger(others, 2 * self._interval_s + _LINGER_S)
