"""A run in MLflow while it trains. Another process imports MLflow and writes, so that training doesn't wait for it.

Start it first: it takes as long to import MLflow as this process to import torch. It ends when this one does, whatever
ended it: a run that didn't say how it ended is closed as KILLED.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from layerpipe2.errors import UserError, install_command
from layerpipe2.lab.tracking.entry import Entry

Message = Mapping[str, Any]


class Writer:
    """The process that writes one run.

    Args:
        target: path of MLflow's SQLite file, which is made if need be, or the address of a server (``http://...``).

    Raises:
        UserError: if MLflow isn't installed, or the file is no database.
    """

    def __init__(self, target: str) -> None:
        if find_spec("mlflow") is None:
            raise UserError(f"--mlflow needs MLflow; run {install_command('tracking')}")
        if "://" not in target:
            _check(Path(target))
        command = [sys.executable, "-m", "layerpipe2.lab.tracking.writer", target]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process if an error came before a run began; else it has been waited for."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()

    def begin(self, entry: Entry) -> None:
        """The run starts.

        Raises:
            UserError: if the process couldn't open what it writes to.
        """
        if self._process.poll():
            self.close()
        self._send({"begin": entry})

    def points(self, points: Iterable[tuple[str, float, int]]) -> None:
        """Values of the run's metrics: name, value, epoch."""
        self._send({"points": list(points)})

    def end(self, status: str, **outcome: Any) -> None:
        """How the run ended: MLflow's status; what the writer does with the rest is said there."""
        self._send({"end": status, **outcome})
        self.close()

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            UserError: with what the process had to say, if it wasn't.
        """
        _, text = self._process.communicate()
        if self._process.returncode == 2:
            raise UserError(text.strip().rpartition("\n")[2])
        if self._process.returncode:
            raise UserError("the process that writes to MLflow was ended; `python -m experiments.track` copies records")

    def _send(self, message: Message) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # the process has ended, and close() says why; training goes on


def _check(database: Path) -> None:
    """Refuse a file that is no database, before anything is trained."""
    if not database.parent.is_dir():
        raise UserError(f"database {database}: there is no folder {database.parent}; make it, or give another name")
    if database.is_dir():
        raise UserError(f"database {database} is a folder; give the name of a file")
    if not database.is_file() or not database.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise UserError(f"database {database}: {error}; delete it, or give another name") from None
