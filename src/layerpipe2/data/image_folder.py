"""Image-folder trees: train/<class>/*.png and test/<class>/*.png, labels by the class folders' sorted names."""

from __future__ import annotations

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
from layerpipe2.data.verify import check_counts, damaged

MODES = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}
_CHUNK = 500  # images that one thread decodes at a time
_MAX_THREADS = 8


def read_tree(spec: DatasetSpec, folder: Path) -> Arrays:
    """Read the tree; the counts are checked before the first image is decoded, which takes seconds.

    For CIFAR-10, CIFAR-100 the sorted class names are the published order of the labels.
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
    images = torch.empty((len(paths), *spec.image_shape), dtype=torch.uint8)
    mode = MODES[spec.image_shape[0]]

    def decode_chunk(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(paths))):
            images[i] = _decode_one(spec, paths[i], mode)

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        list(threads.map(decode_chunk, range(0, len(paths), _CHUNK)))
    return images.numpy()


def _decode_one(spec: DatasetSpec, path: str, mode: ImageReadMode) -> torch.Tensor:
    """One image (C, H, W); an unreadable one is named."""
    content = np.fromfile(path, dtype=np.uint8)
    try:
        image: torch.Tensor = decode_image(torch.from_numpy(content), mode)
    except RuntimeError as error:
        raise damaged(spec, path, "not a readable PNG image") from error
    if image.shape != spec.image_shape:
        raise damaged(spec, path, f"image of shape {tuple(image.shape)}, expected {spec.image_shape}")
    return image
