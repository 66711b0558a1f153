"""Is this the published data set? Shapes, counts per class and channel statistics are compared with its specification.

Every message says what is wrong, where, and the remedy, in one line.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError
from layerpipe2.lab.data.specs import DatasetSpec
from layerpipe2.lab.data.types import Arrays, Data

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4  # the published statistics are rounded to 4 decimals
_CHUNK = 4096  # images


def first_line(error: Exception) -> str:
    """What another library's exception says, in one line."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def damaged(spec: DatasetSpec, source: str, what: str) -> UserError:
    """The error for data that was found and is not what it should be."""
    return UserError(f"{spec.name}: {what}; in {source}; remove or replace this copy, then {spec.remedy}")


def check_counts(spec: DatasetSpec, source: str, part: str, labels: NDArray[np.int64]) -> None:
    """Compare the labels of ``part`` ("train" or "test") with the specified number of images per class.

    Raises:
        UserError: naming the first class that differs.
    """
    expected = spec.per_class[part == "test"]
    if labels.size and (labels.min() < 0 or labels.max() >= spec.num_classes):
        what = f"{part} labels run from {labels.min()} to {labels.max()}, expected 0 to {spec.num_classes - 1}"
        raise damaged(spec, source, what)
    if not expected:
        return
    counts = np.bincount(labels, minlength=spec.num_classes)
    for label in np.flatnonzero(counts != expected):
        what = f"{part} class {label} has {counts[label]} images, expected {expected}"
        raise damaged(spec, source, f"{what} ({labels.size} images in all, expected {expected * spec.num_classes})")


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of ``images / 255``, from exact integer sums."""
    levels = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        chunks = (images[start : start + _CHUNK, channel].ravel() for start in range(0, len(images), _CHUNK))
        histogram = np.sum([np.bincount(chunk, minlength=256) for chunk in chunks], 0)
        mean = float((histogram * levels).sum() / histogram.sum())
        means.append(mean / 255)
        deviations.append(float(np.sqrt((histogram * (levels - mean) ** 2).sum() / histogram.sum())) / 255)
    return tuple(means), tuple(deviations)


def _canonical(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Sort by a hash of the pixels: a thorough mix that is the same for every source's own order of files."""
    import torch

    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    keys = np.array([blake2b(row.data, digest_size=8).digest() for row in rows], dtype="S8")
    # Viewed as integers: numpy drops trailing zero bytes of strings.
    order = np.lexsort((labels, keys.view(np.uint64)))
    return torch.from_numpy(images[order]), torch.from_numpy(labels[order].astype(np.int64))


def _check_part(spec: DatasetSpec, source: str, part: str, images: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Check type, shape and counts of one part."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != spec.input_shape:
        expected = f"uint8 (N, C, H, W) = (N, *{spec.input_shape})"
        raise damaged(spec, source, f"{part} images are {images.dtype} {images.shape}, expected {expected}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        what = f"{part} labels are {labels.dtype} {labels.shape}, expected integers {images.shape[:1]}"
        raise damaged(spec, source, what)
    check_counts(spec, source, part, labels.astype(np.int64))


def verified(spec: DatasetSpec, source: str, arrays: Arrays) -> Data:
    """Check the arrays that came from ``source`` and bring them into the canonical order.

    Raises:
        UserError: type, shape, count per class or channel statistics differ from the specification.
    """
    if spec.read is None:
        _check_part(spec, source, "train", arrays.x_train, arrays.y_train)
        _check_part(spec, source, "test", arrays.x_test, arrays.y_test)
    mean, std = channel_statistics(arrays.x_train)
    for kind, found, expected in (("mean", mean, spec.mean), ("std", std, spec.std)):
        if expected and not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
            numbers, published = (" ".join(f"{value:.4f}" for value in values) for values in (found, expected))
            what = f"channel {kind} of the training images is {numbers}, expected {published}"
            raise damaged(spec, source, what)
    train, test = _canonical(arrays.x_train, arrays.y_train), _canonical(arrays.x_test, arrays.y_test)
    return Data(spec.name, source, *train, *test, spec.num_classes, mean, std, spec.flippable)


def halved(data: Data, spec: DatasetSpec) -> Data:
    """The same images at half the height and width: means of 2 x 2 pixels, a half rounded up; the order stays."""
    x_train, x_test = (((_squares(x).sum((3, 5)) + 2) // 4).byte() for x in (data.x_train, data.x_test))
    mean, std = channel_statistics(x_train.numpy())
    return replace(data, name=spec.name, x_train=x_train, x_test=x_test, mean=mean, std=std)


def _squares(images: Tensor) -> Tensor:
    """The pixels of every 2 x 2 square: (N, C, H, W) -> (N, C, H / 2, 2, W / 2, 2)."""
    number, channels, height, width = images.shape
    return images.reshape(number, channels, height // 2, 2, width // 2, 2)
