"""Find, read and verify a data set.

Folders, each searched for every format before the next folder:

1. the ``root`` argument; without one the folder that the environment variable LAYERPIPE2_DATA names; without
   that ``./data``. A folder that is named and does not exist is an error.
2. the system folder of a distribution's package (Fashion-MNIST: Debian's ``dataset-fashion-mnist``).
3. with ``download=True``, torchvision's download into the folder of step 1, which is created.

Formats in a folder:

1. torchvision's files: ``FashionMNIST/raw/`` (idx files, plain or .gz), ``cifar-10-batches-py/``,
   ``cifar-100-python/``
2. idx files (Fashion-MNIST) in ``<name>/`` or in the folder itself
3. an image-folder tree, ``train/<class>/*.png`` and ``test/<class>/*.png``, in ``<name>/`` or in the folder itself
4. ``<name>.npz`` with x_train, y_train, x_test, y_test

Time series have files of their own (:mod:`layerpipe2.lab.data.series`), in ``<name>/`` or in the folder itself.

The first that is there is used. If it is damaged, that is an error: going on to another would hide it. digits ship
with scikit-learn; no folder is searched for them. MNIST-1D is computed, and the folder of step 1 keeps a copy, which
is replaced if it is damaged.
"""

import lzma
import os
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from layerpipe2.errors import UserError, look_up
from layerpipe2.lab.data.readers import idx_file, read_download, read_idx, read_npz, read_torchvision, read_tree
from layerpipe2.lab.data.specs import IMAGES, DatasetSpec
from layerpipe2.lab.data.text import TEXTS, TextSpec, load_text
from layerpipe2.lab.data.types import Arrays, Data
from layerpipe2.lab.data.verify import damaged, first_line, halved, verified

# What gzip, zip, numpy, torchvision and the file system raise on truncated, damaged or unreadable files and on failed
# downloads (URLError is an OSError).
READ_ERRORS = (
    *(OSError, EOFError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError),
    *(lzma.LZMAError, struct.error, tokenize.TokenError),
)

DATASETS: dict[str, DatasetSpec | TextSpec] = {**IMAGES, **TEXTS}
"""Name -> data set, images and text."""

ENVIRONMENT_VARIABLE = "LAYERPIPE2_DATA"

Announce = Callable[[str], object]
Reader = Callable[[], Arrays]


def describe(name: str) -> DatasetSpec | TextSpec:
    """What a data set must look like: ``input_shape``, ``num_classes`` and more, without reading it.

    Raises:
        UserError: unknown name.
    """
    return look_up(DATASETS, name, "data set")


def load(
    name: str, root: Path | str | None = None, *, download: bool = False, announce: Announce | None = None
) -> Data:
    """Load a data set into memory and verify that it is the published one.

    The same arrays in the same order result from every source. The module's text states the order in which folders
    and formats are tried; ``announce=print`` shows it.

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
        whole = _load(IMAGES[spec.half_of or name], root, download, say)
        return halved(whole, spec) if spec.half_of else whole
    text = load_text(spec, _main_folder(root)[0])
    say(f"{name}: reading {text.source}")
    return text


def _load(spec: DatasetSpec, root: Path | str | None, download: bool, announce: Announce) -> Data:
    """Load what ``spec`` describes."""
    tried = []
    for source, reader in _sources(spec, root, download):
        if reader is not None:
            announce(f"{spec.name}: reading {source}")
            try:
                return verified(spec, source, reader())
            except READ_ERRORS as error:
                if isinstance(error, UserError):
                    raise
                raise damaged(spec, source, f"cannot be read ({first_line(error)})") from error
        announce(f"{spec.name}: no {_formats(spec)} in {source}")
        tried.append(source)
    places = f"{_formats(spec)} in {' and in '.join(tried)}"
    raise UserError(f"{spec.name}: no data found; looked for {places}; {spec.remedy}")


def _sources(spec: DatasetSpec, root: Path | str | None, download: bool) -> Iterator[tuple[str, Reader | None]]:
    """Every place in order: its description, and its reader or None if nothing is there.

    Raises:
        UserError: a folder that the caller or the environment names does not exist.
    """
    if spec.read is not None:
        yield spec.source, spec.read
        return
    folder, origin = _main_folder(root)
    if spec.compute is not None:
        yield spec.source, partial(spec.compute, folder)
        return
    if folder.is_dir() or not (origin or download):
        yield _search(spec, folder)
    elif not download:
        what = f"{spec.name}: data folder {folder} ({origin}) is not a directory"
        raise UserError(f"{what}; correct the path, or create the folder and {spec.remedy}")
    if spec.system_folder is not None:
        yield _search(spec, Path(spec.system_folder))
    if download and spec.torchvision is not None:
        yield f"torchvision's download into {folder}", partial(read_download, spec, folder)


def _formats(spec: DatasetSpec) -> str:
    """The formats that a folder is searched for, in words."""
    if spec.read_folder:
        return spec.pattern
    first = "idx files, " if spec.idx_md5 else f"{spec.folder}/*, " if spec.folder else ""
    return f"{first}train/<class>/*.png or {spec.name}.npz"


def _main_folder(root: Path | str | None) -> tuple[Path, str]:
    """The folder to search first and who named it ("" for the default)."""
    if root:
        return Path(os.path.expanduser(root)), "the root argument"  # Path.expanduser fails on an unknown user's home
    named = os.path.expanduser(os.environ.get(ENVIRONMENT_VARIABLE, ""))
    return (Path(named), f"environment variable {ENVIRONMENT_VARIABLE}") if named else (Path("data"), "")


def _search(spec: DatasetSpec, folder: Path) -> tuple[str, Reader | None]:
    """The first format that is in the folder."""
    places = (folder / spec.name, folder)
    if spec.read_folder:
        found = next((place for place in places if any(place.glob(spec.pattern))), None)
        return f"{spec.pattern} in {found or folder}", partial(spec.read_folder, found) if found else None
    if spec.idx_md5:
        for place in (folder / spec.folder, *places):
            if any(idx_file(place, name) for name in spec.idx_md5):
                return f"idx files in {place}", partial(read_idx, spec, place)
    elif spec.folder and (folder / spec.folder).is_dir():
        return f"torchvision's files in {folder / spec.folder}", partial(read_torchvision, spec, folder)
    for place in places:
        if (place / "train").is_dir() and (place / "test").is_dir():
            return f"image-folder tree {place}", partial(read_tree, spec, place)
    archive = folder / f"{spec.name}.npz"
    if archive.is_file():
        return f"{archive}", partial(read_npz, spec, archive)
    return f"{folder}", None
