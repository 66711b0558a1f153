"""Who does a run: an atomic lock file beside its record, which a process that has died can't hold for ever.

A lock is made by ``open(..., O_EXCL)``, which exactly one process wins, also on a network file system. Its owner
touches it every :data:`BEAT` seconds. A lock is stale if its process is known to be dead (same machine), or if it has
not been touched for :data:`STALE` seconds of the file system's own clock: machines whose clocks differ can share it.

What can go wrong is mild: an owner that was suspended for longer than ``STALE`` shares its run with another process;
both write the same record.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

BEAT, STALE = 15.0, 120.0


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Whether this process has won the lock; it holds it within, and then releases it.

    Raises:
        OSError: if the folder can't be written.
    """
    if not _take(lock):
        yield False
        return
    done = Event()
    beat = Thread(target=_beat, args=(lock, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        if _content(lock) == _me():
            lock.unlink(missing_ok=True)


def _take(lock: Path) -> bool:
    if _create(lock):
        return True
    if not stale(lock):
        return False
    # Only the holder of the guard removes a stale lock: a second one could remove its successor.
    guard = lock.with_name(f"{lock.name}.takeover")
    if not _create(guard):
        if stale(guard):
            guard.unlink(missing_ok=True)
        return False
    try:
        if not stale(lock):
            return False
        lock.unlink(missing_ok=True)
        return _create(lock)
    finally:
        guard.unlink(missing_ok=True)


def _create(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(_me(), file)
    return True


def stale(lock: Path) -> bool:
    """Whether the lock's owner has died, as far as can be told."""
    owner = _content(lock)
    if owner is not None and owner.get("machine") == _machine() and _start(owner["pid"]) != owner["start"]:
        return True
    try:
        return _now(lock.parent) - lock.stat().st_mtime > STALE
    except FileNotFoundError:
        return False  # released in the meantime; the next attempt creates it


def _now(folder: Path) -> float:
    """The file system's time, in seconds."""
    with tempfile.TemporaryFile(dir=folder) as file:  # of this call alone: others look at the same time
        return os.fstat(file.fileno()).st_mtime


def _beat(lock: Path, done: Event) -> None:
    while not done.wait(BEAT):
        if _content(lock) == _me():
            os.utime(lock)


def _content(lock: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(lock.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # released, or not written yet
        return None
    return content


def _me() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "start": _start(os.getpid())}


@cache
def _machine() -> str:
    """This machine, since its last start, as seen from this process's name space."""
    parts = [socket.gethostname()]
    if Path("/proc/sys/kernel/random/boot_id").is_file():
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _start(pid: int) -> str | None:
    """When the process started (a pid is used again), ``running`` where the system doesn't say; None if it's gone."""
    try:
        if Path("/proc/self/stat").is_file():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if fields[0] in "ZX" else fields[19]
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return "running"
