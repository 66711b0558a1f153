"""Files that are replaced as a whole, and are on the disk before they get their name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4


@contextmanager
def replaced(path: Path, *, alone: bool = False) -> Iterator[IO[bytes]]:
    """Give a file to be written, which takes the place of ``path`` when the block ends without an error.

    Whoever reads ``path`` sees the old content or the new one, also after a kill or a loss of power. What is read back
    within the block is on the disk after a ``flush``, under the file's own ``name``.

    Args:
        path: of the file; its folder is there.
        alone: whether no other process writes it at the same time. Then the new content has a name of its own that is
            always the same, so that what a kill has left, which may be gigabytes, goes with the next writing.

    Raises:
        OSError: if it can't be written; the old content stays.
    """
    part = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on the disk, where the file system can do so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
