"""Where a study lies: a journal in a folder, for the processes of one machine, or a database, for those of many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from layerpipe2.errors import UserError
from layerpipe2.runs.records import writable_folder
from layerpipe2.tuning.settings import Direction, quiet

JOURNAL = "journal.log"
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
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"study {path} can't be read ({_first_line(error)}); delete it or give another folder"
        ) from None


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
            return RDBStorage(address, engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}})
        except (ImportError, ModuleNotFoundError):
            raise UserError("a PostgreSQL storage needs psycopg; run: pip install 'layerpipe2[tuning]'") from None
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ValueError) as error:
            if left and not isinstance(error, sqlalchemy.exc.OperationalError):
                time.sleep(0.1)  # somebody else makes the tables
                continue
            raise UserError(
                f"storage {_shown(url)} can't be used ({_first_line(error)}); start it or check its address"
            ) from None
    raise AssertionError


@contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the storage within are one line.

    Raises:
        UserError: if the storage can't be reached or written any more; what is finished stays.
    """
    try:
        yield
    except Exception as error:
        # SQLAlchemy takes half a second to import, and a journal doesn't need it.
        if not isinstance(error, StorageInternalError) and not type(error).__module__.startswith("sqlalchemy."):
            raise
        raise UserError(f"{what}: {_first_line(error)}; start the storage and give the same command again") from None


def open_study(storage: BaseStorage, name: str, directions: list[Direction] | None) -> optuna.Study:
    """The study of a name, made if ``directions`` are given.

    Raises:
        UserError: if there is none and it isn't to be made, or it has other directions.
    """
    with told(f"study {name}"), quiet():
        try:
            if directions is not None:
                optuna.create_study(storage=storage, study_name=name, directions=directions)
        except DuplicatedStudyError:
            pass
        try:
            return optuna.load_study(storage=storage, study_name=name, pruner=optuna.pruners.NopPruner())
        except KeyError:
            raise UserError(f"there is no study {name!r}; start it with `layerpipe2 tune`") from None


def _shown(url: str) -> str:
    """Without the password."""
    start, at, end = url.rpartition("@")
    scheme, colon, user = start.partition("://")
    return f"{scheme}{colon}{user.partition(':')[0]}{at}{end}" if at else url


def _first_line(error: BaseException) -> Any:
    cause: BaseException = getattr(error, "orig", None) or error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
