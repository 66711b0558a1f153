"""Small synthetic data sets in every file format, and the specification that describes them.

The checks under test are the real ones: only the specification that they compare with is exchanged.
"""

import gzip
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR100
from torchvision.io import write_png

from layerpipe2.lab.data.specs import IMAGES, DatasetSpec
from layerpipe2.lab.data.types import Arrays
from layerpipe2.lab.data.verify import channel_statistics

CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 3, 6, 2


def make_arrays(shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Arrays:
    """Random images in random order, 6 for training and 2 for testing of each of 3 classes."""
    rng = np.random.default_rng(seed)

    def part(per_class: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.repeat(np.arange(CLASSES), per_class))
        return rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels

    return Arrays(*part(TRAIN_PER_CLASS), *part(TEST_PER_CLASS))


def spec_of(name: str, arrays: Arrays, **changes: Any) -> DatasetSpec:
    """The specification of data set ``name``, with the sizes and statistics of ``arrays``."""
    mean, std = (tuple(round(v, 4) for v in values) for values in channel_statistics(arrays.x_train))
    sizes: dict[str, Any] = {
        "input_shape": arrays.x_train.shape[1:],
        "num_classes": CLASSES,
        "per_class": (TRAIN_PER_CLASS, TEST_PER_CLASS),
        "mean": mean,
        "std": std,
        "system_folder": None,
    }
    if IMAGES[name].idx_md5:
        sizes["idx_md5"] = {n: hashlib.md5(content).hexdigest() for n, content in idx_contents(arrays).items()}
    return replace(IMAGES[name], **sizes | changes)


def idx_contents(arrays: Arrays) -> dict[str, bytes]:
    """The four idx files, decompressed, by name."""
    values = (arrays.x_train[:, 0], arrays.y_train, arrays.x_test[:, 0], arrays.y_test)
    contents = {}
    for name, array in zip(IMAGES["fashion-mnist"].idx_md5, values, strict=True):
        sizes = np.array(array.shape, dtype=">u4").tobytes()
        contents[name] = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
    return contents


def write_idx(folder: Path, arrays: Arrays, compress: bool = False) -> None:
    """The four idx files, plain or as .gz."""
    folder.mkdir(parents=True)
    for name, content in idx_contents(arrays).items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(content) if compress else content)


def write_tree(folder: Path, arrays: Arrays) -> None:
    """An image-folder tree with class folders c0, c1, c2."""
    for part, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / part / f"c{label}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(torch.from_numpy(image), str(path))


def write_npz(path: Path, arrays: Arrays, **changes: Any) -> None:
    """An .npz file; ``changes`` exchange arrays, None leaves one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = arrays._asdict() | changes
    np.savez(path, allow_pickle=True, **{name: a for name, a in contents.items() if a is not None})


def write_cifar(root: Path, arrays: Arrays) -> type[CIFAR100]:
    """CIFAR-100 files as torchvision keeps them, and the torchvision class that expects the md5 of these."""
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def entry(images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        return {"data": images.reshape(len(images), -1), "fine_labels": labels.tolist()}

    meta = dict(CIFAR100.meta, md5=write("meta", {"fine_label_names": [f"c{i}" for i in range(CLASSES)]}))
    lists = {
        "train_list": [["train", write("train", entry(*arrays[:2]))]],
        "test_list": [["test", write("test", entry(*arrays[2:]))]],
    }
    return type("SmallCIFAR100", (CIFAR100,), {"meta": meta, **lists})
