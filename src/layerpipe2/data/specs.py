"""What each data set must look like. Reading and checking are driven by these values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST


@dataclass(frozen=True)
class DatasetSpec:
    """One published data set.

    ``train_counts`` and ``test_counts`` are images per class. ``mean`` and ``std`` are those of the training pixels
    divided by 255, per channel, rounded to 4 decimals. ``idx_md5`` maps the name of an idx file to the md5 of its
    decompressed content. ``torchvision`` is the class that downloads the data set, ``folder`` the place below its
    root where it keeps the files, ``system_folder`` the one of a system package.
    """

    name: str
    label: str
    image_shape: tuple[int, int, int]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flippable: bool
    remedy: str
    torchvision: Callable[..., Any] | None = None
    folder: str = ""
    idx_md5: Mapping[str, str] = field(default_factory=dict)
    system_folder: str | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train_counts)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image, in pixels."""
        return self.image_shape

    @property
    def embedded(self) -> bool:
        """Whether the data set ships inside a dependency, so that no folder is searched."""
        return self.torchvision is None


_REMEDY = "give --download (in Python download=True), or put the files there, or name their folder (--data-root)"

_SPECS = (
    DatasetSpec(
        name="digits",
        label="digits",
        image_shape=(1, 8, 8),
        # A quarter of 178 182 177 183 181 182 181 179 174 180 images, rounded per class, is for testing.
        train_counts=(134, 136, 133, 137, 136, 136, 136, 134, 130, 135),
        test_counts=(44, 46, 44, 46, 45, 46, 45, 45, 44, 45),
        mean=(0.3054,),  # of this split; nobody publishes them, they guard against a changed file
        std=(0.3760,),
        flippable=False,
        remedy="`pip install --force-reinstall scikit-learn`",
    ),
    DatasetSpec(
        name="fashion-mnist",
        label="Fashion-MNIST",
        image_shape=(1, 28, 28),
        train_counts=(6000,) * 10,
        test_counts=(1000,) * 10,
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
        train_counts=(5000,) * 10,
        test_counts=(1000,) * 10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        flippable=True,
        remedy=_REMEDY,
        torchvision=CIFAR10,
        folder="cifar-10-batches-py",
    ),
    DatasetSpec(
        name="cifar100",
        label="CIFAR-100",
        image_shape=(3, 32, 32),
        train_counts=(500,) * 100,
        test_counts=(100,) * 100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        flippable=True,
        remedy=_REMEDY,
        torchvision=CIFAR100,
        folder="cifar-100-python",
    ),
)

IMAGES: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}
"""The data sets of images by name."""
