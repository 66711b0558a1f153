"""The process that writes a run to MLflow while another trains it: reads messages, one per line, as JSON.

First ``begin`` with the run's entry, then any ``points``, then ``end`` with the status, and of a finished run
``points``, ``tags`` and ``files`` (name -> text). If the end is missing, the other process was killed, and the
run is closed as that. A run that finishes replaces earlier ones of the same settings.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from layerpipe2.errors import UserError
from layerpipe2.lab.tracking.book import Book
from layerpipe2.lab.tracking.database import connect, locked, refused
from layerpipe2.lab.tracking.entry import KEY, Entry, Page
from layerpipe2.lab.tracking.lifetime import alive, close_killed, mine
from layerpipe2.lab.tracking.metrics import Point
from layerpipe2.lab.tracking.view import set_views

ARTIFACTS = "mlartifacts"
"""Folder beside the database."""


def main() -> int:
    """Serve one run; returns the exit code: 2 with one line on stderr if it could not be written."""
    target = sys.argv[1]
    try:
        _serve(target, (json.loads(line) for line in sys.stdin))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:  # MLflow's, SQLAlchemy's, the network's
        print(refused(target, error), file=sys.stderr)
        return 2
    return 0


def _serve(target: str, messages: Iterator[dict[str, Any]]) -> None:
    with _exclusive(target):
        client, artifacts = _connected(target)
    message = next(messages, None)
    if message is None:
        return
    run, cell, dataset = message["begin"]
    entry = Entry(Page(*run), Page(*cell), dataset)
    with _exclusive(target):
        book = Book(client, entry.run.tags["experiment"], artifacts)
        close_killed(book)
        set_views(book.client, book.identity, entry.cell.params)
        identity = book.begin(entry, None, **mine())
        lock = alive(identity).acquire()  # before anybody else can look
    with lock:
        end = _follow(book, identity, messages)
        with _exclusive(target):
            _close(book, identity, entry, end)
    Path(alive(identity).lock_file).unlink(missing_ok=True)


def _follow(book: Book, identity: str, messages: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Write values until the end, at most once a second, and return that end."""
    waiting, written = list[Point](), 0.0
    for message in messages:
        if "end" in message:
            book.log(identity, waiting)
            return message
        waiting += (Point(*point) for point in message["points"])
        if time.monotonic() - written > 1:
            book.log(identity, waiting)
            waiting, written = [], time.monotonic()
    book.log(identity, waiting)
    return {"end": "KILLED"}


def _close(book: Book, identity: str, entry: Entry, end: dict[str, Any]) -> None:
    if "points" in end:
        book.log(identity, (Point(*point) for point in end["points"]), **end["tags"])
    for name, text in end.get("files", {}).items():
        book.client.log_text(identity, text, name)
    book.end(identity, end["end"])
    if end["end"] == "FINISHED":
        same = book.runs(**{KEY: entry.run.tags[KEY]})
        book.remove(run for run in same if run.info.run_id != identity and run.info.status != "RUNNING")
    book.summarize()


def _connected(target: str) -> tuple[MlflowClient, Path | None]:
    if "://" in target:
        client = MlflowClient(target)
        client.search_experiments(max_results=1)  # is there a server?
        return client, None
    artifacts = Path(target).parent / ARTIFACTS
    return connect(Path(target), artifacts), artifacts


def _exclusive(target: str) -> AbstractContextManager[None]:
    return nullcontext() if "://" in target else locked(Path(target))


if __name__ == "__main__":
    sys.exit(main())
