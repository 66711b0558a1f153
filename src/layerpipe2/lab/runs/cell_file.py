"""Records of the runs in a folder in one file of JSON lines: a line per run, in the order of their names.

A run is known by the path of a file of its own: ``runs/mlp/1/stash-s0.json`` is the line ``stash-s0`` of
``runs/mlp/1/records.jsonl``. Who changes such a file holds the kernel's lock of it, which ends with its owner, and
replaces it as a whole, so that readers see the old one or the new one. A line that is no record is refused by number.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from layerpipe2.errors import UserError, read_file
from layerpipe2.lab.runs.records import AGAIN, Record, checked_record, output_file, parsed_json, sealed, write_text

FILE = "records.jsonl"
_LARGEST = 2**30  # bytes of a file that is read
_START = re.compile(r'\{"name":("(?:[^"\\]|\\.)*"),"record":')
_seen: dict[Path, tuple[tuple[int, ...], dict[str, str]]] = {}  # file -> its state when it was read, and its lines


def read(path: Path) -> Record | None:
    """Read and check the record of a run, and return it without its checksum; None if there is none.

    Raises:
        UserError: if the file or the record isn't what was written, as in the other functions.
    """
    line, what = _lines(path.parent / FILE).get(path.stem), f"record {place(path)}"
    return None if line is None else checked_record(parsed_json(line, what, AGAIN).get("record"), what)


def read_all(folder: Path) -> dict[Path, Record]:
    """All runs below ``folder`` with their records, in the order of their paths."""
    return {path: record for path in find(folder) if (record := read(path)) is not None}


def find(folder: Path) -> list[Path]:
    """All runs below ``folder`` that have a record, in the order of their paths."""
    return sorted(file.parent / f"{name}.json" for file in folder.rglob(FILE) for name in _lines(file))


def exists(path: Path) -> bool:
    """Whether there is a record of a run."""
    return path.stem in _lines(path.parent / FILE)


def place(path: Path) -> str:
    """Say where the record of a run is."""
    return f"{path.stem} in {path.parent / FILE}"


def write(path: Path, record: Record) -> None:
    """Write the record of a run with its checksum, in the place of an earlier one.

    Raises:
        UserError: if the file can't be written; the old one stays.
    """
    content = {"name": path.stem, "record": sealed(record)}
    _change(path, {path.stem: json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)})


def remove(path: Path) -> None:
    """Remove the record of a run, and with the last one the file."""
    _change(path, {})


def _change(path: Path, new: dict[str, str]) -> None:
    file = output_file(path.parent / FILE)
    with _locked(file):
        lines = {name: line for name, line in _lines(file).items() if name != path.stem} | new
        write_text(file, "".join(f"{line}\n" for _, line in sorted(lines.items())))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be, and removed if it is empty in the end."""
    try:
        while True:
            with file.open("ab") as held:
                if _lock(held):
                    try:
                        return (yield)
                    finally:
                        if not file.stat().st_size:
                            file.unlink()
    except OSError as error:
        raise UserError(f"{file} can't be written ({error.strerror}); make room or choose another place") from None


def _lock(held: IO[bytes]) -> bool:
    """Wait for the lock of an open file: False if another process, here or on another machine, has replaced it."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        return os.fstat(held.fileno()).st_nlink > 0
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return False


def _lines(file: Path) -> dict[str, str]:
    """Name of a run -> its line, read anew if the file is another than before; empty without a file."""
    try:
        found = file.stat()
        state = (found.st_ino, found.st_mtime_ns, found.st_size)
        if file not in _seen or _seen[file][0] != state:
            content = read_file(file, _LARGEST, lambda what: UserError(f"{file} is {what}; {AGAIN}"))
            _seen[file] = state, _named(file, content.decode(errors="replace").removesuffix("\n"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); {AGAIN}") from None
    return _seen[file][1]


def _named(file: Path, text: str) -> dict[str, str]:
    lines: dict[str, str] = {}
    for number, line in enumerate(text.split("\n") if text else (), 1):
        start = _START.match(line)
        try:
            name = json.loads(start[1]) if start else None
        except ValueError:
            name = None
        if name is None or name in lines:
            what = "no run's record" if name is None else f"a second record of {name}"
            raise UserError(f"line {number} of {file} is {what}; delete it and start again")
        lines[name] = line
    return lines
