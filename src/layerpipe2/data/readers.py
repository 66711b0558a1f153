"""Readers of the file formats. They return what the files say; `layerpipe2.data.verify` judges it."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerpipe2.data.specs import DatasetSpec
from layerpipe2.data.types import Arrays
from layerpipe2.data.verify import damaged, first_line
from layerpipe2.errors import UserError


def idx_file(folder: Path, name: str) -> Path | None:
    """The plain or gzip-compressed idx file in ``folder``, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(spec: DatasetSpec, folder: Path) -> Arrays:
    """The four idx files, each compared with the published md5 of its decompressed content."""
    parts = {name: _idx_array(spec, folder, name) for name in spec.idx_md5}
    images_train, labels_train, images_test, labels_test = parts.values()
    return Arrays(
        images_train[:, None], labels_train.astype(np.int64), images_test[:, None], labels_test.astype(np.int64)
    )


def _idx_array(spec: DatasetSpec, folder: Path, name: str) -> NDArray[np.uint8]:
    """One idx file: 2 zero bytes, type (8 = uint8), number of dimensions, sizes as big-endian uint32, values."""
    path = idx_file(folder, name)
    if path is None:
        raise damaged(spec, str(folder), f"{name} (or {name}.gz) is missing")
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != spec.idx_md5[name]:
        what = f"the decompressed content has md5 {md5}, expected {spec.idx_md5[name]} ({len(content)} bytes)"
        raise damaged(spec, str(path), what)
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_torchvision(spec: DatasetSpec, root: Path) -> Arrays:
    """CIFAR by torchvision, which checks the md5 of every file before it unpickles it."""
    assert spec.torchvision is not None
    train, test = (spec.torchvision(str(root), train=train) for train in (True, False))
    images = [np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)) for part in (train, test)]
    labels = [np.array(part.targets, dtype=np.int64) for part in (train, test)]
    return Arrays(images[0], labels[0], images[1], labels[1])


def read_download(spec: DatasetSpec, root: Path) -> Arrays:
    """Download by torchvision into its own layout below ``root``, then read that."""
    assert spec.torchvision is not None
    try:
        spec.torchvision(str(root), train=True, download=True)
    except (OSError, RuntimeError) as error:
        what = f"{spec.name}: download failed ({first_line(error)}); into {root}"
        raise UserError(f"{what}; check the network connection and the free space, or {spec.remedy}") from error
    return read_idx(spec, root / spec.folder) if spec.idx_md5 else read_torchvision(spec, root)


def read_npz(spec: DatasetSpec, path: Path) -> Arrays:
    """An .npz file with uint8 images (N, C, H, W) x_train, x_test and integer labels (N,) y_train, y_test."""
    # The file is opened here because np.load leaves its own open when the archive is damaged.
    with path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise damaged(spec, str(path), "a single array, not an .npz archive")
        missing = [name for name in Arrays._fields if name not in archive]
        if missing:
            raise damaged(spec, str(path), f"array {missing[0]} is missing (it has {', '.join(archive) or 'none'})")
        return Arrays(*(archive[name] for name in Arrays._fields))
