"""Run records on disk: one JSON file per run, written whole or not at all."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from layerpipe2.errors import UserError

SCHEMA = 1
"""Version of the record's layout; see :func:`layerpipe2.runs.train.train_run`."""

Record = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old content or the new one, also after a kill.

    Raises:
        UserError: if the folder can't be written.
    """
    folder = writable_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys; numbers that aren't finite become null.

    Raises:
        UserError: if the folder can't be written.
    """
    write_text(path, json.dumps(_finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def writable_folder(folder: Path) -> Path:
    """Make ``folder`` and return it; call this before hours of training, not after.

    Raises:
        UserError: if it can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {folder} can't be made ({error.strerror}); choose another folder") from None
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permissions don't tell it all: network and special file systems
    except OSError as error:
        raise UserError(
            f"output folder {folder} can't be written ({error.strerror}); change its permissions or choose another"
        ) from None
    return folder


def read_record(path: Path) -> Record:
    """Read and check one record.

    Raises:
        UserError: if the file is missing, isn't JSON or has another layout.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"record {path} can't be read ({error.strerror}); train first") from None
    except ValueError:
        raise UserError(f"record {path} isn't valid JSON; delete it and train again") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(f"record {path} doesn't have layout {SCHEMA}; delete it and train again")
    return record


def read_records(folder: Path) -> list[Record]:
    """All records below ``folder``, in the order of their paths.

    Raises:
        UserError: if there are none, or one is broken.
    """
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise UserError(f"no run records below {folder}; train first (`make reproduce`)")
    return [read_record(path) for path in paths]


def fingerprint(record: Record) -> str:
    """SHA-256 of a record's content: equal records are the same run."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
