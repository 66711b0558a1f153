"""Readers of the file formats. They return what the files say; `layerpipe2.data.verify` judges it."""

import gzip
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.datasets.folder import find_classes, make_dataset
from torchvision.io import ImageReadMode, decode_image

from layerpipe2.data.specs import DatasetSpec
from layerpipe2.data.types import Arrays
from layerpipe2.data.verify import check_counts, damaged, first_line
from layerpipe2.errors import UserError

_CHUNK = 500  # images that one thread decodes at a time


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


def read_tree(spec: DatasetSpec, folder: Path) -> Arrays:
    """An image-folder tree, train/<class>/*.png and test/<class>/*.png, labels by the sorted names of the folders.

    For CIFAR-10 and CIFAR-100 these are the published order of the labels. The counts are checked before the first
    image is decoded, which takes seconds.
    """
    parts = [str(folder / part) for part in ("train", "test")]
    classes = [[name for name in find_classes(part)[0] if not name.startswith(".")] for part in parts]
    for part, names in zip(parts, classes, strict=True):
        if len(names) != spec.num_classes:
            raise damaged(spec, part, f"{len(names)} class folders, expected {spec.num_classes}")
    if classes[0] != classes[1]:
        odd = sorted(set(classes[0]) ^ set(classes[1]))[0]
        raise damaged(spec, str(folder), f"class folder {odd} is not in both of train and test")
    numbers = {name: label for label, name in enumerate(classes[0])}
    listed = [make_dataset(part, numbers, extensions=(".png",), allow_empty=True) for part in parts]
    labels = [np.array([label for _, label in files], dtype=np.int64) for files in listed]
    for part, found in zip(parts, labels, strict=True):
        check_counts(spec, part, Path(part).name, found)
    train, test = (_decode(spec, [path for path, _ in files]) for files in listed)
    return Arrays(train, labels[0], test, labels[1])


def _decode(spec: DatasetSpec, paths: list[str]) -> NDArray[np.uint8]:
    """Decode in threads: the decoder releases the interpreter lock, and no process is forked."""
    images = torch.empty((len(paths), *spec.input_shape), dtype=torch.uint8)
    mode = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}[spec.input_shape[0]]

    def decode_chunk(start: int) -> None:
        for i, path in enumerate(paths[start : start + _CHUNK], start):
            content = np.fromfile(path, dtype=np.uint8)
            try:
                image = decode_image(torch.from_numpy(content), mode)
            except RuntimeError as error:
                raise damaged(spec, path, "not a readable PNG image") from error
            if image.shape != spec.input_shape:
                raise damaged(spec, path, f"image of shape {tuple(image.shape)}, expected {spec.input_shape}")
            images[i] = image

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(decode_chunk, range(0, len(paths), _CHUNK)))
    return images.numpy()
