"""Run records as JSON: a file of its own is written whole or not at all, and a record checked whenever it is read."""

import csv
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from layerpipe2.engine.files import replaced
from layerpipe2.errors import UserError, read_file
from layerpipe2.lab.runs.record_schema import SCHEMA, TIMES, RunRecord, RunTimes
from layerpipe2.lab.runs.validation import checked

Record = dict[str, Any]
Row = dict[str, Any]
"""A row of a table, by column."""
_CHECKSUM = "checksum"
_LARGEST = 16 * 2**20  # bytes of a JSON file that is read; a record has some ten thousand
_LONGEST = 400  # characters of a message that quotes a file
AGAIN = "delete it and train again"
"""What to do about a record that is broken."""


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old content or the new one, also after a kill or a loss of power.

    Raises:
        UserError: if it can't be written, for lack of room, too; the old content stays.
    """
    output_file(path)
    try:
        with replaced(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}); make room or choose another place") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys; numbers that aren't finite become null.

    Raises:
        UserError: if the file can't be written.
    """
    write_text(path, _json(value))


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> None:
    """Write a table atomically; None becomes an empty cell.

    Raises:
        UserError: if the folder can't be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def writable_folder(folder: Path) -> Path:
    """Make ``folder`` and return it; call this before hours of training, not after.

    Raises:
        UserError: if it can't be made or written.
    """
    what, remedy = "made", "choose another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        what, remedy = "written", "change its permissions or choose another"
        tempfile.TemporaryFile(dir=folder).close()  # permissions don't tell it all: network and special file systems
    except OSError as error:
        raise UserError(f"output folder {folder} can't be {what} ({error.strerror}); {remedy}") from None
    return folder


def output_file(path: Path) -> Path:
    """Make the folder of a file and return the file's path; call this before hours of training, not after.

    Raises:
        UserError: if the folder can't be made or written, or if there is something else in the file's place.
    """
    writable_folder(path.parent)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; give the name of a file")
    return path


def write_record(path: Path, record: Record) -> None:
    """Write a record with its checksum; numbers that aren't finite become null.

    Raises:
        UserError: if the file can't be written.
    """
    write_text(path, record_text(record))


def record_text(record: Record) -> str:
    """What :func:`write_record` writes."""
    return _json(sealed(record))


def sealed(record: Record) -> Record:
    """A record with its checksum; numbers that aren't finite are null."""
    plain: Record = _finite(record)
    return plain | {_CHECKSUM: fingerprint(plain)}


def keep_record(path: Path, record: Record, write: Callable[[Path, Record], None] = write_record) -> None:
    """Write the record of a run that has just ended by ``write``: if it can't be where it belongs, in another place.

    Raises:
        UserError: if it can't be written, with the place where the record is now; without any it is printed before.
    """
    try:
        return write(path, record)
    except UserError as error:
        reason = str(error)
    try:
        second = Path(tempfile.mkdtemp(prefix="layerpipe2-")) / path.name
        write_record(second, record)
    except (OSError, UserError):
        print(json.dumps(_finite(record), allow_nan=False), flush=True)
        raise UserError(f"{reason}; nor is there any other place for the record, so it was printed") from None
    raise UserError(f"{reason}; until then the record is {second}")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        UserError: if it isn't a regular file of at most 16 MiB with a mapping in it; ``remedy`` ends the message.
    """
    try:
        content = read_file(path, _LARGEST, lambda what: UserError(f"{path} is {what}; {remedy}"))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); {remedy}") from None
    return parsed_json(content, str(path), remedy)


def parsed_json(content: str | bytes, what: str, remedy: str) -> dict[str, Any]:
    """The mapping in a JSON text.

    Raises:
        UserError: if it is none; the message begins with ``what`` and ends with ``remedy``.
    """
    try:
        found = json.loads(content if isinstance(content, str) else content.decode())
    except (ValueError, RecursionError):
        raise UserError(f"{what} isn't valid JSON; {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{what} is no mapping; {remedy}")
    return found


def read_record(path: Path) -> Record:
    """Read and check one record, and return it without its checksum.

    Raises:
        UserError: if the file is missing, has another layout, or isn't what was written.
    """
    return checked_record(read_json(path, AGAIN), f"record {path}")


def checked_record(record: Any, what: str) -> Record:
    """Check a record as it was read, and return it without its checksum.

    Raises:
        UserError: if it has another layout, or isn't what was written; the message begins with ``what``.
    """
    try:
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise UserError(f"its layout isn't {SCHEMA}")
        if record.pop(_CHECKSUM, None) != fingerprint(record):
            raise UserError("it isn't what was written (its checksum differs)")
        checked(RunRecord, record)
    except (UserError, RecursionError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} ..."
        raise UserError(f"{what}: {reason}; {AGAIN}") from None
    return dict(record)


def split_times(record: Record) -> tuple[Record, dict[str, Any]]:
    """A record without its commit and times, so that runs which give the same have the same file; and those.

    The times name the record that they belong to.
    """
    where = record["provenance"]
    rest = record | {"provenance": {name: value for name, value in where.items() if name not in TIMES}}
    return rest, {name: where[name] for name in TIMES} | {"record": fingerprint(_finite(rest))}


def with_times(record: Record, path: Path) -> Record:
    """The record with the commit and times in the file ``path``; all None where they aren't there, or another's.

    Raises:
        UserError: if the file isn't what was written.
    """
    if "started" in record["provenance"]:
        return record
    times: dict[str, Any] = dict.fromkeys(TIMES)
    if path.is_file():
        found = dict(checked(RunTimes, read_json(path, AGAIN), str(path)))
        if found.pop("record") == fingerprint(record):
            times = found
    return record | {"provenance": record["provenance"] | times}


def fingerprint(record: Record) -> str:
    """SHA-256 of a record's content: equal records are the same run."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def not_finite(value: Any) -> str | None:
    """The place of the first number that isn't finite.

    >>> not_finite({"epochs": [{"loss": 0.5}, {"loss": float("inf")}]})
    'epochs.1.loss'
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = ((key, not_finite(item)) for key, item in items)
    return next((f"{key}.{place}".rstrip(".") for key, place in found if place is not None), None)


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
