"""What MLflow writes to: an SQLite file, or a server. Both are looked at before a run trains or is copied."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from layerpipe2.errors import UserError, install_command

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "layerpipe2/"
"""The names of our experiments in MLflow begin with it."""
ARTIFACTS = "mlartifacts"
"""Folder of files beside the database."""
_PATIENCE = 20.0  # s that a database may be locked by another process; MLflow waits as long for a single write


def check_target(where: str) -> None:
    """Refuse what MLflow can't write to, without importing it; a server is not asked.

    Args:
        where: path of an SQLite file, which need not be there, or the address of a server (``http://...``).

    Raises:
        UserError: if MLflow isn't installed; if the path is a folder, is in none, or is no whole database; if the
            database can't be written, or another process locks it.
    """
    if find_spec("mlflow") is None:
        raise UserError(f"--mlflow needs MLflow; run {install_command('tracking')}")
    if "://" in where:
        return
    database = Path(where)
    if database.is_dir():
        raise UserError(f"database {database} is a folder; give the name of a file")
    if not database.parent.is_dir():
        raise UserError(f"database {database}: there is no folder {database.parent}; make it, or give another name")
    if _is_there(database):
        try:
            _check_whole(database)
        except sqlite3.Error as error:
            raise one_line(where, error) from None


def connect(where: str) -> MlflowClient:
    """MLflow's client of a database file, which is made if need be, or of a server.

    Raises:
        UserError: as :func:`check_target`, or if MLflow can't open it.
    """
    check_target(where)
    from mlflow import MlflowClient

    try:
        if "://" not in where and not _is_there(Path(where)):
            with locked(Path(where)):
                _make(Path(where))
        client = MlflowClient(where if "://" in where else _uri(Path(where)))
        client.search_experiments(max_results=1)  # is it MLflow's, and is there a server?
    except UserError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's, Alembic's, the network's
        raise one_line(where, error) from None
    return client


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Have one process at a time make the database, or copy records to it; one that has to wait says so."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{database}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for the process that writes to {database}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def experiment_id(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    """The identity of our experiment of this name, which is made if need be, with its files below ``artifacts``."""
    from mlflow.exceptions import MlflowException

    if (experiment := client.get_experiment_by_name(PREFIX + name)) is not None:
        return str(experiment.experiment_id)
    try:
        return str(client.create_experiment(PREFIX + name, artifacts and artifacts.resolve().as_uri()))
    except MlflowException:
        if (experiment := client.get_experiment_by_name(PREFIX + name)) is None:
            raise
        return str(experiment.experiment_id)  # another process has made it meanwhile


@contextmanager
def readable_errors(where: str) -> Iterator[None]:
    """Have errors of MLflow, its database or its server in one line.

    Raises:
        UserError: in the place of such an error.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (OSError, MlflowException) as error:
        raise one_line(where, error) from None


def one_line(where: str, error: Exception) -> UserError:
    """What an error of MLflow or of its database says, with a remedy."""
    reason = str(error).strip().partition("\n")[0]
    if "://" in where:
        return UserError(f"MLflow at {where}: {reason}; start the server, or give another address")
    return UserError(f"database {where}: {reason}; make room, or give the name of another file")


def _is_there(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0


def _check_whole(database: Path) -> None:
    with closing(sqlite3.connect(database, timeout=_PATIENCE)) as connection:
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        connection.execute("BEGIN IMMEDIATE")  # fails if it can't be written


def _make(database: Path) -> None:
    """Make a database aside, so that one which is there is whole, whenever its making is killed."""
    if _is_there(database):
        return
    from mlflow import MlflowClient

    new = database.with_name(f"{database.name}.new")
    for rest in (new, Path(f"{new}-journal")):
        rest.unlink(missing_ok=True)
    MlflowClient(_uri(new)).search_experiments(max_results=1)
    new.replace(database)


def _uri(database: Path) -> str:
    return f"sqlite:///{database.resolve()}"
