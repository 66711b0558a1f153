"""What each data set must look like. Reading and checking are driven by these values.

Nothing here imports torch or torchvision before a data set is read: whoever mistypes a name is told at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from layerpipe2.errors import install_command
from layerpipe2.lab.data import series
from layerpipe2.lab.data.mnist1d import POINTS, read_mnist1d
from layerpipe2.lab.data.types import Arrays

_REMEDY = "give --download (in Python download=True), or put the files there, or name their folder (--data-root)"


@dataclass(frozen=True)
class DatasetSpec:
    """One published data set of images.

    Attributes:
        name, label: in options and records, and for readers.
        input_shape: (channels, height, width) of one image, in pixels.
        num_classes: number of classes.
        per_class: images of every class for training and for testing; 0: not checked.
        mean, std: of the training pixels divided by 255, per channel, rounded to 4 decimals.
        flippable: whether a mirror image still belongs to its class.
        remedy: what to do if the data is missing or damaged.
        read: gives the images themselves, if they ship with a dependency or are computed: no folder is searched, and
            nothing is checked.
        compute: as ``read``, of what takes seconds: gets the data folder, to keep a copy there.
        source: where ``read`` or ``compute`` has them from.
        torchvision: makes the object that downloads and reads the data set.
        folder: the place below torchvision's root where it keeps the files.
        idx_md5: name of an idx file -> md5 of its decompressed content.
        system_folder: where a distribution's package puts the files.
        pattern: of the names of the files that ``read_folder`` takes.
        read_folder: gives the images from a folder of a format of its own, in place of the common ones; a ValueError
            says what is wrong there.
        half_of: the data set whose images are read and verified, and then halved in height and width; all that is said
            of files is its own.
    """

    name: str
    label: str
    input_shape: tuple[int, ...]
    num_classes: int
    per_class: tuple[int, int] = (0, 0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flippable: bool = False
    remedy: str = _REMEDY
    read: Callable[[], Arrays] | None = None
    compute: Callable[[Path], Arrays] | None = None
    source: str = ""
    torchvision: Callable[..., Any] | None = None
    folder: str = ""
    idx_md5: Mapping[str, str] = field(default_factory=dict)
    system_folder: str | None = None
    pattern: str = ""
    read_folder: Callable[[Path], Arrays] | None = None
    half_of: str | None = None


def read_digits() -> Arrays:
    """scikit-learn's digits, which ship with it: 1797 images of 8x8 pixels with levels 0..16, stretched to 0..255.

    They have no published test part: a stratified quarter, chosen by a fixed seed, is the test part.
    """
    import torch
    from sklearn.datasets import load_digits  # takes a second, and most runs read something else

    from layerpipe2.lab.data.splits import stratified

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified(torch.from_numpy(labels), 0.25, seed=1797)
    return Arrays(images[train], labels[train], images[test], labels[test])


def _torchvision(name: str) -> Callable[..., Any]:
    """A class of torchvision, which is imported when it is called."""
    return lambda *given, **options: getattr(import_module("torchvision.datasets"), name)(*given, **options)


def _cifar(
    classes: int, per_class: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], folder: str
) -> DatasetSpec:
    return DatasetSpec(
        f"cifar{classes}",
        f"CIFAR-{classes}",
        (3, 32, 32),
        classes,
        per_class,
        mean,
        std,
        flippable=True,
        torchvision=_torchvision(f"CIFAR{classes}"),
        folder=folder,
    )


_ROWS = (
    DatasetSpec("digits", "digits", (1, 8, 8), 10, read=read_digits, source="scikit-learn's digits"),
    DatasetSpec(
        "fashion-mnist",
        "Fashion-MNIST",
        (1, 28, 28),
        10,
        per_class=(6000, 1000),
        mean=(0.2860,),
        std=(0.3530,),
        flippable=True,
        remedy=f"`apt-get install dataset-fashion-mnist`, or {_REMEDY}",
        torchvision=_torchvision("FashionMNIST"),
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
        "fashion-mnist-14", "Fashion-MNIST, 14 x 14 pixels", (1, 14, 14), 10, flippable=True, half_of="fashion-mnist"
    ),
    _cifar(10, (5000, 1000), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "cifar-10-batches-py"),
    _cifar(100, (500, 100), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "cifar-100-python"),
    DatasetSpec(
        "mnist1d",
        "MNIST-1D",
        (1, 1, POINTS),
        10,
        remedy=install_command("lab"),
        compute=read_mnist1d,
        source="what the package mnist1d computes",
    ),
    DatasetSpec(
        "japanese-vowels",
        "Japanese vowels",
        (series.VOWELS, 1, series.STEPS),
        9,
        remedy=f"{install_command('series')}, or name the folder of the .ts files (--data-root)",
        system_folder=series.vowels_folder(),
        pattern="JapaneseVowels_T*.ts",
        read_folder=series.read_vowels,
    ),
    DatasetSpec(
        "spoken-digits",
        "spoken digits",
        (2, series.BANDS, series.FRAMES),
        10,
        remedy="name the folder of the wavs (--data-root), such as recordings/ of the Free Spoken Digit Dataset",
        pattern=series.WAVS,
        read_folder=series.read_digits_folder,
    ),
)

IMAGES: dict[str, DatasetSpec] = {spec.name: spec for spec in _ROWS}
"""The data sets of images by name."""
