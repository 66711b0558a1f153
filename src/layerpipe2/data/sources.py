"""Where data is looked for, and in which order.

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

The first that is there is used. If it is damaged, that is an error: going on to another would hide it. digits ship
with scikit-learn; no folder is searched for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from layerpipe2.data.image_folder import read_tree
from layerpipe2.data.readers import (
    idx_file,
    read_digits,
    read_download,
    read_idx,
    read_npz,
    read_torchvision,
)
from layerpipe2.data.specs import DatasetSpec
from layerpipe2.data.types import Arrays
from layerpipe2.errors import UserError

ENVIRONMENT_VARIABLE = "LAYERPIPE2_DATA"
DEFAULT_FOLDER = Path("data")

Reader = Callable[[], Arrays]


def sources(spec: DatasetSpec, root: Path | None, download: bool) -> Iterator[tuple[str, Reader | None]]:
    """Every place in order: its description, and its reader or None if nothing is there.

    Raises:
        UserError: a folder that the caller or the environment names does not exist.
    """
    if spec.embedded:
        yield "scikit-learn's digits", read_digits
        return
    folder, origin = _main_folder(root)
    if folder.is_dir() or not (origin or download):
        yield _search(spec, folder)
    elif not download:
        what = f"{spec.name}: data folder {folder} ({origin}) is not a directory"
        raise UserError(f"{what}; correct the path, or create the folder and {spec.remedy}")
    if spec.system_folder is not None:
        yield _search(spec, Path(spec.system_folder))
    if download:
        yield f"torchvision's download into {folder}", partial(read_download, spec, folder)


def formats(spec: DatasetSpec) -> str:
    """The formats that a folder is searched for, in words."""
    first = "idx files" if spec.idx_md5 else f"{spec.folder}/*"
    return f"{first}, train/<class>/*.png or {spec.name}.npz"


def _main_folder(root: Path | None) -> tuple[Path, str]:
    """The folder to search first and who named it ("" for the default)."""
    if root is not None:
        return Path(root).expanduser(), "the root argument"
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return (Path(named).expanduser(), f"environment variable {ENVIRONMENT_VARIABLE}") if named else (DEFAULT_FOLDER, "")


def _search(spec: DatasetSpec, folder: Path) -> tuple[str, Reader | None]:
    """The first format that is in the folder."""
    places = (folder / spec.name, folder)
    if spec.idx_md5:
        for place in (folder / spec.folder, *places):
            if any(idx_file(place, name) for name in spec.idx_md5):
                return f"idx files in {place}", partial(read_idx, spec, place)
    elif (folder / spec.folder).is_dir():
        return f"torchvision's files in {folder / spec.folder}", partial(read_torchvision, spec, folder)
    for place in places:
        if (place / "train").is_dir() and (place / "test").is_dir():
            return f"image-folder tree {place}", partial(read_tree, spec, place)
    archive = folder / f"{spec.name}.npz"
    if archive.is_file():
        return f"{archive}", partial(read_npz, spec, archive)
    return f"{folder}", None
