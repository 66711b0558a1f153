"""Who does the fixed runs of an experiment, and where their records go: a folder that all see, or a database."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from layerpipe2.lab.provenance import TRAINING
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import Record
from layerpipe2.lab.tuning.leases import Leases
from layerpipe2.lab.tuning.trial_locks import server_lock
from layerpipe2.versions import code_hash

_RUNS = 0x1A7E3  # tells locks of runs from those of trials, and from those of others in the same database


class Place(Protocol):
    """Where processes that do the runs of one experiment meet. A run is named by its record's path."""

    def holding(self, path: Path) -> AbstractContextManager[bool]:
        """Whether this process has the run; it keeps it within."""

    def fetch(self, paths: Iterable[Path]) -> None:
        """Write the records of these runs that other machines have finished since, if they aren't in the folder."""

    def post(self, path: Path, record: Record) -> None:
        """Let other machines have the record of a run that has just ended."""

    def close(self) -> None:
        """Give connections back."""


@dataclass(frozen=True)
class Folder:
    """A folder that all who take part see: leases lie beside the records, and there is nothing to send."""

    folder: Path
    leases: Leases = field(default_factory=Leases)

    def holding(self, path: Path) -> AbstractContextManager[bool]:
        """Hold the lease beside the record."""
        return self.leases.holding((self.folder / path).with_suffix(".lock"))

    def fetch(self, paths: Iterable[Path]) -> None:
        """Do nothing, since all see the same records."""

    def post(self, path: Path, record: Record) -> None:
        """Do nothing, since all see the record."""

    def close(self) -> None:
        """Do nothing, since there is no connection."""


class Database:
    """A PostgreSQL database for machines that share no folder: its server holds locks, records are notes of a study.

    Machines with other code that trains don't meet there.

    Raises:
        UserError: if it can't be used.
    """

    def __init__(self, folder: Path, url: str, name: str) -> None:
        from layerpipe2.lab.tuning.storage import open_storage, open_study

        storage = open_storage(folder, url)
        self.folder, self._storage = folder, storage
        self._name = f"runs of {name}, code {code_hash(TRAINING)}"
        self._study = open_study(storage, self._name, ["maximize"])
        storage.remove_session()

    def holding(self, path: Path) -> AbstractContextManager[bool]:
        """Hold a lock of the server, which it takes back if this process or its machine goes."""
        number = zlib.crc32(f"{self._name} {path}".encode()) - 2**31  # of two with one number, one waits for the other
        return server_lock(self._storage.engine, _RUNS, number)  # type: ignore[attr-defined]

    def fetch(self, paths: Iterable[Path]) -> None:
        """Write the records that stand in the study's notes."""
        missing = [path for path in paths if not cell_file.exists(self.folder / path)]
        found = self._study.user_attrs if missing else {}
        self._storage.remove_session()
        for path in missing:
            if str(path) in found:
                cell_file.write(self.folder / path, json.loads(found[str(path)]))

    def post(self, path: Path, record: Record) -> None:
        """Put the record into the study's notes."""
        self._study.set_user_attr(str(path), json.dumps(record))
        self._storage.remove_session()

    def close(self) -> None:
        """Close the connections of this thread, and those that no thread uses."""
        self._storage.remove_session()
        self._storage.engine.dispose()  # type: ignore[attr-defined]
