"""Which runs in MLflow are still being written, so that the others can be closed."""

import socket
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from layerpipe2.lab.tracking.book import Book

HOST = "layerpipe2.host"


def mine() -> dict[str, str]:
    """The tag of runs that this machine writes."""
    return {HOST: socket.gethostname()}


def alive(identity: str) -> FileLock:
    """Held as long as the run's writer lives."""
    return FileLock(Path(tempfile.gettempdir()) / f"layerpipe2-{identity}.lock")


def close_killed(book: Book) -> None:
    """Close the runs whose writer has died on this machine."""
    for run in book.runs(**mine()):
        if run.info.status == "RUNNING":
            lock = alive(run.info.run_id)
            try:
                with lock.acquire(blocking=False):
                    book.end(run.info.run_id, "KILLED")
            except Timeout:
                continue
            Path(lock.lock_file).unlink(missing_ok=True)
