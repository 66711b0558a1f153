"""Where a study lies: a journal in a folder, for the processes of one machine, or a database, for those of many."""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from layerpipe2.errors import UserError, install_command
from layerpipe2.lab.judging.objectives import Direction
from layerpipe2.lab.runs.records import writable_folder
from layerpipe2.lab.tuning import JOURNAL
from layerpipe2.lab.tuning.settings import quiet

_LONGEST = 2**18  # bytes of a line of the journal
_ATTEMPTS = 20  # of several processes that make the tables of a new database at once
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The journal in ``folder``, or the database at ``url``.

    Raises:
        UserError: if it can't be written, reached or read.
    """
    if url is not None:
        return _database(url)
    path = writable_folder(folder) / JOURNAL
    try:
        path.touch()
        *lines, half = path.read_bytes().split(b"\n")
        if half[:1] not in (b"", b"{"):
            raise ValueError("it is none")
        json.loads(lines[-1] if lines else b"{}")  # Optuna overlooks what is wrong with the last line
        return JournalStorage(JournalFileBackend(str(path), _Lock(path)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"study {path} can't be read ({_first_line(error)}); delete it or give another folder"
        ) from None


class _Lock(BaseJournalFileLock):
    """The kernel's, of the journal itself: it ends with its owner, where Optuna's own is kept for another 30 s.

    Whoever gets it removes the half line that a kill or a full disk has left: the next line would be joined to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self) -> bool:
        """Wait for it."""
        handle = os.open(self.path, os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self.handle = handle  # of whoever has the lock: threads share this object
        size = os.fstat(handle).st_size
        end = os.pread(handle, _LONGEST, max(0, size - _LONGEST))
        if half := end.rpartition(b"\n")[2]:
            os.ftruncate(handle, size - len(half))
        return True

    def release(self) -> None:
        """Let others have it."""
        os.close(self.handle)


def _database(url: str) -> BaseStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage

    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in (*_DRIVERS, *_DRIVERS.values()):
        raise UserError(
            f"storage is {_shown(url)}; give one like postgresql://user@host/name, or leave it out: "
            "then a folder holds the study, for the processes of one machine"
        )
    address = f"{_DRIVERS.get(scheme, scheme)}://{rest}"
    for left in reversed(range(_ATTEMPTS)):
        try:
            storage = RDBStorage(
                address, engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
            )
            weakref.finalize(storage, _closed, storage.scoped_session, storage.engine)
            return storage
        except (ImportError, ModuleNotFoundError):
            raise UserError(f"a PostgreSQL storage needs psycopg; run {install_command('tuning')}") from None
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ValueError) as error:
            if left and not isinstance(error, sqlalchemy.exc.OperationalError):
                time.sleep(0.1)  # somebody else makes the tables
                continue
            raise UserError(
                f"storage {_shown(url)} can't be used ({_first_line(error)}); start it or check its address"
            ) from None
    raise AssertionError


def _closed(sessions: Any, engine: Any) -> None:
    sessions.remove()
    engine.dispose()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of a storage within are one line.

    Raises:
        UserError: if the storage can't be reached or written any more; what is finished stays.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} can't go on ({error.strerror}); make room and give the same command again") from None
    except Exception as error:
        # SQLAlchemy takes half a second to import, and a journal doesn't need it.
        if not isinstance(error, StorageInternalError) and not type(error).__module__.startswith("sqlalchemy."):
            raise
        raise UserError(f"{what}: {_first_line(error)}; start the storage and give the same command again") from None


def open_study(
    storage: BaseStorage, name: str, directions: list[Direction] | None, objectives: Sequence[str] = ()
) -> optuna.Study:
    """The study of a name, made if ``directions`` are given; dashboards show ``objectives``, the names of its values.

    Raises:
        UserError: if there is none and it isn't to be made, or it has other directions.
    """
    with told(f"study {name}"), quiet():
        try:
            if directions is not None:
                made = optuna.create_study(storage=storage, study_name=name, directions=directions)
                if objectives:
                    made.set_metric_names(list(objectives))
        except DuplicatedStudyError:
            pass
        try:
            return optuna.load_study(storage=storage, study_name=name, pruner=optuna.pruners.NopPruner())
        except KeyError:
            raise UserError(f"there is no study {name!r}; start it with `layerpipe2 tune`") from None


def _shown(url: str) -> str:
    """Without the password."""
    scheme, colon, rest = url.partition("?")[0].partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{colon}{user.partition(':')[0]}{at}{place}"


def _first_line(error: BaseException) -> str:
    while cause := getattr(error, "orig", None) or error.__cause__:
        error = cause
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
