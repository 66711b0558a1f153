"""MLflow's database, an SQLite file: made aside and whole, or not there; or an MLflow server's address instead."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from layerpipe2.errors import UserError


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """The database for this process alone; says so if it has to wait.

    Raises:
        UserError: if it's a folder, beside which no lock is to stay.
    """
    if database.is_dir():
        raise UserError(f"database {database} is a folder; give the name of a file")
    lock = FileLock(f"{database}.lock")
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for the process that writes to {database}", file=sys.stderr, flush=True)
        held = lock.acquire()
    with held:
        yield


@contextmanager
def opened(database: Path, artifacts: Path) -> Iterator[MlflowClient]:
    """The database for this process alone, made if need be.

    Raises:
        UserError: if it isn't whole, or can't be written.
    """
    with locked(database):
        client = connect(database, artifacts)
        try:
            yield client
        except (OSError, MlflowException) as error:
            raise refused(database, error) from None


def connect(database: Path, artifacts: Path) -> MlflowClient:
    """The database, made if need be; hold :func:`locked` meanwhile.

    Raises:
        UserError: if it isn't whole, or can't be made.
    """
    try:
        if not database.exists() or not database.stat().st_size:
            _make(database, artifacts)
        check_whole(database)
        client = MlflowClient(_uri(database))
        client.search_experiments(max_results=1)  # looks at its tables
    except Exception as error:  # SQLAlchemy's, Alembic's, MLflow's
        raise refused(database, error) from None
    return client


def check_whole(database: Path) -> None:
    """Raise sqlite3.DatabaseError if the file isn't an undamaged database."""
    with closing(sqlite3.connect(database)) as connection:
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise sqlite3.DatabaseError(state)


def refused(database: Path | str, error: Exception) -> UserError:
    """What went wrong, in one line."""
    reason = str(error).strip().partition("\n")[0]
    if "://" in str(database):
        return UserError(f"MLflow at {database}: {reason}; start the server, or give another address")
    return UserError(
        f"database {database}: {reason}; make room, or delete it: it holds nothing but copies of the records"
    )


def _make(database: Path, artifacts: Path) -> None:
    new = database.with_name(f"{database.name}.new")
    for rest in (new, Path(f"{new}-journal")):  # of a process that was killed here
        rest.unlink(missing_ok=True)
    SqlAlchemyStore(_uri(new), artifacts.resolve().as_uri()).engine.dispose()
    new.replace(database)


def _uri(database: Path) -> str:
    return f"sqlite:///{database.resolve()}"
