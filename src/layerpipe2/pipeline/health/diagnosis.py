"""Which rank has failed when training stands still: a pure function of what the ranks post about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

EVERYONE = -1  # instead of a rank: waits for all others, as in a barrier
_FRESH_LOOKS = 4  # a beat that is missing for so many looks isn't late, it is absent


class Post(NamedTuple):
    """What a rank says about itself, about once per interval.

    Args:
        label: stage and host in words.
        beat: counts the posts.
        moves: counts its signs of progress.
        step: where it is, in words a user knows.
        waiting: the rank it waits for, if any, or ``EVERYONE``.
        done: it has ended its training in order.
    """

    label: str
    beat: int = 0
    moves: int = 0
    step: int = 0
    waiting: int | None = None
    done: bool = False


class Peers:
    """All ranks (this one included) as one of them sees them, on its own clock: nobody's clocks are compared.

    Args:
        world_size: number of ranks.
        timeout_s: a rank that gives no sign, or makes no progress, for so long has failed.
        interval_s: time between two looks. One look never counts for more than two intervals: if this process itself
            could not run, the others must not seem dead to it.
    """

    def __init__(self, world_size: int, timeout_s: float, interval_s: float) -> None:
        self.timeout_s, self.interval_s = timeout_s, interval_s
        self.posts: list[Post | None] = [None] * world_size
        self._silent = [0.0] * world_size
        self._stuck = [0.0] * world_size

    def look(self, posts: Mapping[int, Post], elapsed_s: float) -> None:
        """Take in the newest posts, ``elapsed_s`` after the last look; a rank without one has said nothing new."""
        elapsed = min(elapsed_s, 2 * self.interval_s)
        for rank, before in enumerate(self.posts):
            now = posts.get(rank, before)
            self._silent[rank] = self._silent[rank] + elapsed if now == before else 0.0
            moved = before is None or now is None or now.moves != before.moves
            self._stuck[rank] = 0.0 if moved else self._stuck[rank] + elapsed
            self.posts[rank] = now

    def diagnosis(self, impatient: bool = False) -> str | None:
        """One line that names the rank which holds up the others and says why, or None while all goes well.

        Args:
            impatient: a connection has broken, so a few missing beats are enough to call a rank dead.
        """
        for rank, post in enumerate(self.posts):
            if post is None and self._silent[rank] >= self.timeout_s:
                return f"rank {rank} never came: no sign of it for {self.timeout_s:g} s"
        patience = min(self.timeout_s, _FRESH_LOOKS * self.interval_s) if impatient else self.timeout_s
        silent = self._silent_ranks(patience)
        if silent:
            verb = "gives" if len(silent) == 1 else "give"
            names = " and ".join(map(self.name, silent))
            return f"{names} {verb} no sign of life for {patience:g} s: killed, stopped or cut off"
        stuck = [rank for rank in range(len(self.posts)) if self._holds_up(rank)]
        return next((reason for reason in map(self._end_of_chain, stuck) if reason), None)

    def name(self, rank: int) -> str:
        """A rank with its stage and host, as far as known."""
        post = self.posts[rank]
        return f"rank {rank} ({post.label})" if post and post.label else f"rank {rank}"

    def others_done(self, rank: int) -> bool:
        """Whether every rank but ``rank`` has ended in order."""
        return all(post is not None and post.done for other, post in enumerate(self.posts) if other != rank)

    def _silent_ranks(self, patience_s: float) -> list[int]:
        quiet = {r: self._silent[r] for r, post in enumerate(self.posts) if post is not None and not post.done}
        longest = max(quiet.values(), default=0.0)
        if longest < patience_s:
            return []
        # Ranks that were cut off at one time are missed up to two looks apart; one that is only late must not be named.
        margin = min(2 * self.interval_s, patience_s / 4)
        return [rank for rank, silence in quiet.items() if silence >= longest - margin]

    def _holds_up(self, rank: int) -> bool:
        # A rank whose beat is late may be dead: silence will decide, and give the better reason.
        post, fresh = self.posts[rank], self._silent[rank] < _FRESH_LOOKS * self.interval_s
        return post is not None and not post.done and fresh and self._stuck[rank] >= self.timeout_s

    def _end_of_chain(self, rank: int) -> str | None:
        """From a rank without progress along "waits for" to the one that waits for nobody."""
        chain: list[int] = []
        while rank not in chain:
            post = self.posts[rank]
            if post is not None and post.done:
                return f"{self.name(chain[-1])} waits for {self.name(rank)}, which has already finished"
            if post is None or not self._holds_up(rank):
                return None
            chain.append(rank)
            if post.waiting is None:
                return self._hanging()
            rank = self._awaited(rank) if post.waiting == EVERYONE else post.waiting
        ring = chain[chain.index(rank) :]
        return f"deadlock: {' waits for '.join(map(self.name, [*ring, rank]))} for {self.timeout_s:g} s"

    def _hanging(self) -> str:
        # A rank may wait inside a library that doesn't say so. Then the rank that failed stands still about as long,
        # at an earlier step.
        margin = min(_FRESH_LOOKS * self.interval_s, self.timeout_s / 2)
        steps = {
            r: (post.step, -self._stuck[r])
            for r, post in enumerate(self.posts)
            if post is not None and not post.done and post.waiting is None
            if self._stuck[r] >= self.timeout_s - margin
        }
        failed = min(steps, key=steps.__getitem__)
        return f"{self.name(failed)} hangs: no progress for {self.timeout_s:g} s at step {steps[failed][0]}"

    def _awaited(self, rank: int) -> int:
        """Whom a rank at a barrier waits for: one that isn't there, first of all one that may still come."""
        away = [r for r, post in enumerate(self.posts) if r != rank and (post is None or post.waiting != EVERYONE)]
        return min(away, key=lambda r: self._stuck[r], default=rank)
