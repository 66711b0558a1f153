"""Find, read and verify a data set."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from layerpipe2.data.sources import Reader, formats, sources
from layerpipe2.data.specs import IMAGES, DatasetSpec
from layerpipe2.data.text import TEXTS, TextSpec, load_text
from layerpipe2.data.types import Arrays, Data, ImageData
from layerpipe2.data.verify import damaged, first_line, verified
from layerpipe2.errors import UserError

# What gzip, zip, numpy, torchvision and the file system raise on truncated, damaged or unreadable files and on failed
# downloads (URLError is an OSError).
_READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)

DATASETS: dict[str, DatasetSpec | TextSpec] = {**IMAGES, **TEXTS}
"""Name -> data set, images and text."""

Announce = Callable[[str], object]


def describe(name: str) -> DatasetSpec | TextSpec:
    """What a data set must look like: ``input_shape``, ``num_classes`` and more, without reading it.

    Raises:
        UserError: unknown name.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def load(name: str, root: Path | None = None, *, download: bool = False, announce: Announce | None = None) -> Data:
    """Load a data set into memory and verify that it is the published one.

    The same arrays in the same order result from every source. `layerpipe2.data.sources` states the order in which
    folders and formats are tried; ``announce=print`` shows it.

    Args:
        name: a key of `DATASETS`.
        root: folder to search instead of LAYERPIPE2_DATA or ``./data``.
        download: allow torchvision to download what is not found.
        announce: called with one line for every place tried and for the one chosen.

    Raises:
        UserError: unknown name, nothing found (all places are listed), or data that is truncated or wrong.
    """
    spec, say = describe(name), announce or (lambda line: None)
    if isinstance(spec, DatasetSpec):
        return _load(spec, root, download, say)
    text = load_text(spec)
    say(f"{name}: reading {text.source}")
    return text


def _load(spec: DatasetSpec, root: Path | None, download: bool, announce: Announce) -> ImageData:
    """Load what ``spec`` describes."""
    tried = []
    for source, reader in sources(spec, root, download):
        if reader is not None:
            announce(f"{spec.name}: reading {source}")
            return verified(spec, source, _read(spec, source, reader))
        announce(f"{spec.name}: no {formats(spec)} in {source}")
        tried.append(source)
    raise UserError(
        f"{spec.name}: no data found; looked for {formats(spec)} in {' and in '.join(tried)}; {spec.remedy}"
    )


def _read(spec: DatasetSpec, source: str, reader: Reader) -> Arrays:
    """Read, with one kind of error for all the formats."""
    try:
        return reader()
    except UserError:
        raise
    except _READ_ERRORS as error:
        raise damaged(spec, source, f"cannot be read ({first_line(error)})") from error
