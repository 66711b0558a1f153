"""What each data set must look like. Reading and checking are driven by these values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from layerpipe2.data.digits import read_digits
from layerpipe2.data.types import Arrays

_REMEDY = "give --download (in Python download=True), or put the files there, or name their folder (--data-root)"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One published data set of images.

    Attributes:
        name: as in options and records.
        label: for readers.
        image_shape: (channels, height, width) of one image, in pixels.
        num_classes: number of classes.
        per_class: images of every class for training and for testing.
        mean: of the training pixels divided by 255, per channel, rounded to 4 decimals.
        std: likewise.
        flippable: whether a mirror image still belongs to its class.
        remedy: what to do if the data is missing or damaged.
        read: gives the images themselves, if they ship with a dependency or are computed: no folder is searched, and
            nothing is checked.
        source: where ``read`` has them from.
        torchvision: the class that downloads the data set.
        folder: the place below torchvision's root where it keeps the files.
        idx_md5: name of an idx file -> md5 of its decompressed content.
        system_folder: where a distribution's package puts the files.
    """

    name: str
    label: str
    image_shape: tuple[int, int, int]
    num_classes: int
    per_class: tuple[int, int] = (0, 0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flippable: bool = False
    remedy: str = _REMEDY
    read: Callable[[], Arrays] | None = None
    source: str = ""
    torchvision: Callable[..., Any] | None = None
    folder: str = ""
    idx_md5: Mapping[str, str] = field(default_factory=dict)
    system_folder: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image, in pixels."""
        return self.image_shape


_ROWS = (
    DatasetSpec(
        name="digits",
        label="digits",
        image_shape=(1, 8, 8),
        num_classes=10,
        read=read_digits,
        source="scikit-learn's digits",
    ),
    DatasetSpec(
        name="fashion-mnist",
        label="Fashion-MNIST",
        image_shape=(1, 28, 28),
        num_classes=10,
        per_class=(6000, 1000),
        mean=(0.2860,),
        std=(0.3530,),
        flippable=True,
        remedy=f"`apt-get install dataset-fashion-mnist`, or {_REMEDY}",
        torchvision=FashionMNIST,
        folder="FashionMNIST/raw",
        idx_md5={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
        system_folder="/usr/share/datasets/fashion-mnist",
    ),
    DatasetSpec(
        name="cifar10",
        label="CIFAR-10",
        image_shape=(3, 32, 32),
        num_classes=10,
        per_class=(5000, 1000),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        flippable=True,
        torchvision=CIFAR10,
        folder="cifar-10-batches-py",
    ),
    DatasetSpec(
        name="cifar100",
        label="CIFAR-100",
        image_shape=(3, 32, 32),
        num_classes=100,
        per_class=(500, 100),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        flippable=True,
        torchvision=CIFAR100,
        folder="cifar-100-python",
    ),
)

IMAGES: dict[str, DatasetSpec] = {spec.name: spec for spec in _ROWS}
"""The data sets of images by name."""
