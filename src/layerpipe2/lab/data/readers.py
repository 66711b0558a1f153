"""Readers of the file formats. They return what the files say; `layerpipe2.lab.data.verify` judges it.

No file is trusted: none is read that isn't a regular file or is larger than twice what the data set has, and none may
unpack to more, whatever its header says.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError, read_file
from layerpipe2.lab.data.specs import DatasetSpec
from layerpipe2.lab.data.types import Arrays
from layerpipe2.lab.data.verify import check_counts, damaged, first_line

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 500  # images that one thread decodes at a time
_PNG, _LARGEST_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 2**20  # first bytes; most bytes


def most_bytes(spec: DatasetSpec) -> int:
    """Most that a file or an array may hold: twice all images, and room for what comes with them."""
    return 2 * sum(spec.per_class) * spec.num_classes * prod(spec.input_shape) + 2**16


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
    most = most_bytes(spec)
    content = read_file(path, most, partial(damaged, spec, str(path)))
    if path.suffix == ".gz":  # what is cut short or too long has another md5
        content = zlib.decompressobj(wbits=31).decompress(content, most)
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
    for path in (root / spec.folder).iterdir():
        if path.stat().st_size > most_bytes(spec):
            raise damaged(spec, str(path), f"larger than the {most_bytes(spec):,d} bytes that are expected at most")
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
    content = read_file(path, most_bytes(spec), partial(damaged, spec, str(path)))
    if content.startswith(np.lib.format.MAGIC_PREFIX):
        raise damaged(spec, str(path), "a single array, not an .npz archive")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return Arrays(*(_npz_array(spec, path, archive, name) for name in Arrays._fields))


def _npz_array(spec: DatasetSpec, path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array, if it is no larger than expected: numpy would take memory for whatever the header says."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        held = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()[:10])
        raise damaged(spec, str(path), f"array {name} is missing (it has {held or 'none'})")
    with archive.open(member) as file:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version not in read_header:
            raise damaged(spec, str(path), f"array {name} has a header of version {version}, expected 1.0 or 2.0")
        shape, _, dtype = read_header[version](file)
    if max(*shape, prod(shape) * dtype.itemsize, 0) > most_bytes(spec):
        raise damaged(spec, str(path), f"array {name} is said to be {dtype} {shape}, more than is expected at most")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_tree(spec: DatasetSpec, folder: Path) -> Arrays:
    """An image-folder tree, train/<class>/*.png and test/<class>/*.png, labels by the sorted names of the folders.

    For CIFAR-10 and CIFAR-100 these are the published order of the labels. The counts are checked before the first
    image is decoded, which takes seconds.
    """
    parts = [str(folder / part) for part in ("train", "test")]
    classes = [sorted(p.name for p in Path(part).iterdir() if p.is_dir() and p.name[0] != ".") for part in parts]
    for part, names in zip(parts, classes, strict=True):
        if len(names) != spec.num_classes:
            raise damaged(spec, part, f"{len(names)} class folders, expected {spec.num_classes}")
    if classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))[0]
        raise damaged(spec, str(folder), f"class folder {odd} is not in both of train and test")
    numbers = {name: label for label, name in enumerate(classes[0])}
    listed = [[(path, numbers[name]) for name in numbers for path in _images(Path(part, name))] for part in parts]
    labels = [np.array([label for _, label in files], dtype=np.int64) for files in listed]
    for part, found in zip(parts, labels, strict=True):
        check_counts(spec, part, Path(part).name, found)
    train, test = (_decode(spec, [path for path, _ in files]) for files in listed)
    return Arrays(train, labels[0], test, labels[1])


def _images(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if path.suffix.lower() == ".png")


def _decode(spec: DatasetSpec, paths: list[str]) -> NDArray[np.uint8]:
    """Decode in threads: the decoder releases the interpreter lock, and no process is forked."""
    import torch

    images = torch.empty((len(paths), *spec.input_shape), dtype=torch.uint8)

    def decode_chunk(start: int) -> None:
        for i, path in enumerate(paths[start : start + _CHUNK], start):
            images[i] = _image(spec, Path(path))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(decode_chunk, range(0, len(paths), _CHUNK)))
    return images.numpy()


def _image(spec: DatasetSpec, path: Path) -> Tensor:
    """One image, uint8 (C, H, W). Its size is read off the header first: a decoder takes memory for what that says."""
    import torch
    from torchvision.io import ImageReadMode, decode_png

    content = read_file(path, _LARGEST_PNG, partial(damaged, spec, str(path)))
    channels, *size = spec.input_shape
    if content.startswith(_PNG):
        found = [int.from_bytes(content[at : at + 4]) for at in (20, 16)]
        if found != size:
            raise damaged(spec, str(path), f"image of {found[0]} x {found[1]} pixels, expected {size[0]} x {size[1]}")
        try:
            mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
            image: Tensor = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode)
        except RuntimeError:
            image = torch.empty(0)
        if image.dtype == torch.uint8:
            return image
    raise damaged(spec, str(path), "not a readable PNG image of 8 bits")
