"""Who does a run, where all who take part see one folder: one process at a time; a dead owner keeps nothing.

A lease is a file beside what is to be written, which its owner renews. The lease of a process that has died, on this
machine, or that was not renewed for :data:`LEASE` seconds, on another, is taken over. An owner that is suspended for
longer shares its run with another process, which does no harm: both write the same record.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import SoftFileLease, Timeout

from layerpipe2.errors import UserError

LEASE = 120.0
_EMPTY = 10.0  # s after which a lock without a content has lost its owner, which died between making and writing it


@dataclass(frozen=True)
class Leases:
    """The leases that this process has asked for: who waits for one measures how long it was not renewed."""

    duration: float = LEASE
    known: dict[Path, SoftFileLease] = field(default_factory=dict)

    @contextmanager
    def holding(self, path: Path) -> Iterator[bool]:
        """Whether this process has the lease of a path; it keeps it within, and then gives it back.

        Raises:
            UserError: if the lease can't be written.
        """
        lease = self.known.setdefault(path, SoftFileLease(path, lease_duration=self.duration))
        try:
            lease.acquire(blocking=False)
        except Timeout:
            _mark_if_empty(path)
            yield False
            return
        except OSError as error:
            raise UserError(f"{path} can't be written ({error.strerror}); make room or choose another place") from None
        try:
            yield True
        finally:
            lease.release()


def _mark_if_empty(lock: Path) -> None:
    """Give a lock that stays empty a content: filelock takes over what it can't read, but nothing that is empty.

    An owner that is alive after all writes over it.
    """
    with suppress(OSError), lock.open("r+", encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        if not found.st_size and time.time() - found.st_mtime > _EMPTY:
            file.write("abandoned\n")
