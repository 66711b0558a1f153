"""Is this the published data set? Shapes, counts per class and channel statistics are held against its specification.

Every message says what is wrong, where, and the remedy, in one line.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

from layerpipe2.data.specs import DatasetSpec
from layerpipe2.data.types import Arrays, ImageData
from layerpipe2.errors import UserError

TOLERANCE = 1e-4  # the published statistics are rounded to 4 decimals
_CHUNK = 4096  # images


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def damaged(spec: DatasetSpec, source: str, what: str) -> UserError:
    """The error for data that was found and is not what it should be."""
    return UserError(f"{spec.name}: {what}; in {source}; remove or replace this copy, then {spec.remedy}")


def check_counts(spec: DatasetSpec, source: str, part: str, labels: NDArray[np.int64]) -> None:
    """Hold the labels of ``part`` ("train" or "test") against the specified number of images per class.

    Raises:
        UserError: naming the first class that differs.
    """
    expected = np.array(spec.train_counts if part == "train" else spec.test_counts)
    if labels.size and (labels.min() < 0 or labels.max() >= spec.num_classes):
        what = f"{part} labels run from {labels.min()} to {labels.max()}, expected 0 to {spec.num_classes - 1}"
        raise damaged(spec, source, what)
    counts = np.bincount(labels, minlength=spec.num_classes)
    for label in np.flatnonzero(counts != expected):
        what = f"{part} class {label} has {counts[label]} images, expected {expected[label]}"
        raise damaged(spec, source, f"{what} ({labels.size} images in all, expected {expected.sum()})")


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of ``images / 255``, from exact integer sums."""
    levels = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        histogram = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), _CHUNK):
            histogram += np.bincount(images[start : start + _CHUNK, channel].ravel(), minlength=256)
        mean = float((histogram * levels).sum() / histogram.sum())
        means.append(mean / 255)
        deviations.append(float(np.sqrt((histogram * (levels - mean) ** 2).sum() / histogram.sum())) / 255)
    return tuple(means), tuple(deviations)


def _canonical(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort by a hash of the pixels: a thorough mix that is the same for every source's own order of files."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    keys = np.array([blake2b(row.data, digest_size=8).digest() for row in rows], dtype="S8")
    # Viewed as integers: numpy drops trailing zero bytes of strings.
    order = np.lexsort((labels, keys.view(np.uint64)))
    return torch.from_numpy(images[order]), torch.from_numpy(labels[order])


def _checked_part(spec: DatasetSpec, source: str, part: str, arrays: Arrays) -> NDArray[np.int64]:
    """Check type, shape and counts of one part and return its labels as int64."""
    images, labels = arrays[:2] if part == "train" else arrays[2:]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != spec.image_shape:
        what = (
            f"{part} images are {images.dtype} {images.shape}, expected uint8 (N, C, H, W) = (N, *{spec.image_shape})"
        )
        raise damaged(spec, source, what)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        what = f"{part} labels are {labels.dtype} {labels.shape}, expected integers {images.shape[:1]}"
        raise damaged(spec, source, what)
    labels = labels.astype(np.int64)
    check_counts(spec, source, part, labels)
    return labels


def verified(spec: DatasetSpec, source: str, arrays: Arrays) -> ImageData:
    """Check what was read from ``source`` and bring it into the canonical order.

    Raises:
        UserError: type, shape, count per class or channel statistics differ from the specification.
    """
    y_train = _checked_part(spec, source, "train", arrays)
    y_test = _checked_part(spec, source, "test", arrays)
    statistics = channel_statistics(arrays.x_train)
    for kind, found, expected in zip(("mean", "std"), statistics, (spec.mean, spec.std), strict=True):
        if not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
            numbers = " ".join(f"{value:.4f}" for value in found)
            what = f"channel {kind} of the training images is {numbers}, expected"
            raise damaged(spec, source, f"{what} {' '.join(f'{value:.4f}' for value in expected)}")
    train, test = _canonical(arrays.x_train, y_train), _canonical(arrays.x_test, y_test)
    return ImageData(spec.name, source, *train, *test, spec.num_classes, *statistics, spec.flippable)
