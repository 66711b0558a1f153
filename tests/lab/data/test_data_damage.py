"""Truncated, incomplete or wrong data: one line that names the file and the remedy."""

import gzip
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import torch
from data_files import make_arrays, spec_of, write_cifar, write_idx, write_npz, write_tree
from PIL import Image
from torchvision.io import write_png

from layerpipe2.errors import UserError
from layerpipe2.lab.data.loading import _load
from layerpipe2.lab.data.types import Arrays

ARRAYS = make_arrays()
SPEC = spec_of("fashion-mnist", ARRAYS)
FIRST = "train-images-idx3-ubyte"
FIRST_GZ = f"{FIRST}.gz"


def refused(root: Path, message: str) -> None:
    """Loading must fail with one line that matches and that states the remedy."""
    with pytest.raises(UserError, match=message) as caught:
        _load(SPEC, root, False, lambda line: None)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("fashion-mnist: ")
    assert str(root) in line
    assert "remove or replace this copy, then `apt-get install" in line


def flip_a_byte(path: Path, at: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def first_image(tree: Path, folder: str) -> Path:
    return next((tree / folder).iterdir())


def corrupt_image(tree: Path) -> None:
    path = first_image(tree, "train/c0")
    flip_a_byte(path, path.stat().st_size // 2)


def image_too_large(tree: Path) -> None:
    write_png(torch.zeros(1, 9, 8, dtype=torch.uint8), str(first_image(tree, "train/c0")))


def image_of_gigabytes(tree: Path) -> None:
    path = first_image(tree, "train/c0")
    content = path.read_bytes()
    path.write_bytes(content[:16] + b"\0\0\xff\xff" * 2 + content[24:])


def image_of_16_bits(tree: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(first_image(tree, "train/c0"))


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, ARRAYS.x_train)


write_gz = partial(write_idx, compress=True)
BOMB = gzip.compress(bytes(10_000_000), mtime=0)
ZEROS = gzip.compress(b"\0" * 5000, mtime=0)  # part of the names of tests, which must not change with the second
CLASS_1 = r"train class 1 has 5 images, expected 6 \(17 images in all, expected 18\)"
UNREADABLE = r"not a readable PNG image of 8 bits; in .*/%s/\d+\.png"


@pytest.mark.parametrize(
    ("write", "harm", "message"),
    [
        (write_idx, lambda f: flip_a_byte(f / FIRST), rf"md5 \w+, expected \w+ \(1168 bytes\); in .*{FIRST}"),
        (write_idx, lambda f: cut(f / FIRST), rf"md5 \w+, expected \w+ \(1128 bytes\); in .*{FIRST}"),
        (write_idx, lambda f: (f / FIRST).unlink(), rf"{FIRST} \(or {FIRST}\.gz\) is missing"),
        (write_gz, lambda f: (f / FIRST_GZ).write_bytes(ZEROS[:-12]), r"md5 \w+, expected \w+ \(\d+ bytes\)"),
        (write_gz, lambda f: (f / FIRST_GZ).write_bytes(ZEROS), r"md5 \w+, expected \w+ \(5000 bytes\)"),
        (
            write_gz,
            lambda f: (f / FIRST_GZ).write_bytes(b"<html>"),
            r"cannot be read \(Error -3 while decompressing data: incorrect header",
        ),
        (write_gz, lambda f: (f / FIRST_GZ).write_bytes(b""), r"md5 \w+, expected \w+ \(0 bytes\)"),
        (write_gz, lambda f: (f / FIRST_GZ).write_bytes(BOMB), r"md5 \w+, expected \w+ \(68608 bytes\)"),
        (write_idx, lambda f: (f / FIRST).write_bytes(bytes(70_000)), f"larger than the 68,608 bytes .*{FIRST};"),
        (write_idx, lambda f: endless(f / FIRST), rf"{FIRST} \(or {FIRST}\.gz\) is missing"),
        (write_tree, lambda f: first_image(f, "train/c1").unlink(), CLASS_1),
        (write_tree, lambda f: rmtree(f / "test" / "c2"), r"2 class folders, expected 3; in .*/test"),
        (
            write_tree,
            lambda f: (f / "test/c2").rename(f / "test/d2"),
            "class folder c2 is not in both of train and test",
        ),
        (write_tree, lambda f: cut(first_image(f, "train/c0")), UNREADABLE % "train/c0"),
        (write_tree, corrupt_image, UNREADABLE % "train/c0"),
        (write_tree, lambda f: first_image(f, "test/c0").write_bytes(b""), UNREADABLE % "test/c0"),
        (write_tree, image_too_large, r"image of 9 x 8 pixels, expected 8 x 8; in .*\.png"),
        (write_tree, image_of_gigabytes, r"image of 65535 x 65535 pixels, expected 8 x 8; in .*\.png"),
        (write_tree, image_of_16_bits, UNREADABLE % "train/c0"),
        (write_tree, lambda f: endless(first_image(f, "train/c0")), r"no regular file; in .*/train/c0/\d+\.png"),
        (write_tree, lambda f: pipe(first_image(f, "train/c0")), r"no regular file; in .*/train/c0/\d+\.png"),
    ],
)
def test_damaged_files(
    tmp_path: Path, write: Callable[[Path, Arrays], None], harm: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "fashion-mnist", ARRAYS)
    harm(tmp_path / "fashion-mnist")
    refused(tmp_path, message)


def test_links_that_lead_round_are_not_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "fashion-mnist", ARRAYS)
    (tmp_path / "fashion-mnist/train/c0/again").symlink_to(tmp_path / "fashion-mnist/train")
    assert len(_load(SPEC, tmp_path, False, lambda line: None).y_train) == len(ARRAYS.y_train)


def test_damaged_data_does_not_hide_behind_another_copy(tmp_path: Path) -> None:
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS)
    write_idx(tmp_path / "fashion-mnist", ARRAYS)
    flip_a_byte(tmp_path / "fashion-mnist" / FIRST)
    refused(tmp_path, "md5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "array y_test is missing"),
        ({"x_train": ARRAYS.x_train / 255}, r"train images are float64 \(18, 1, 8, 8\), expected uint8"),
        ({"x_train": ARRAYS.x_train[:, 0]}, r"train images are uint8 \(18, 8, 8\), expected uint8 \(N, C, H, W\)"),
        ({"x_test": ARRAYS.x_test.transpose(0, 2, 3, 1)}, r"test images are uint8 \(6, 8, 8, 1\)"),
        ({"y_train": ARRAYS.y_train[:-1]}, r"train labels are int64 \(17,\), expected integers \(18,\)"),
        ({"y_train": ARRAYS.y_train * 1.0}, "train labels are float64"),
        ({"y_train": ARRAYS.y_train + 1}, "train labels run from 1 to 3, expected 0 to 2"),
        ({"y_test": np.zeros(6, dtype=int)}, r"test class 0 has 6 images, expected 2"),
        (
            {"x_train": np.minimum(ARRAYS.x_train, 200)},
            r"channel mean of the training images is 0\.\d{4}, expected 0\.\d{4}",
        ),
        ({"x_train": np.array([{}] * 18, dtype=object)}, r"cannot be read \(Object arrays"),
    ],
)
def test_wrong_npz(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS, **changes)
    refused(tmp_path, message)


def test_equal_mean_with_another_spread_is_refused(tmp_path: Path) -> None:
    flat = np.full_like(ARRAYS.x_train, int(ARRAYS.x_train.mean()))
    flat.ravel()[: int(ARRAYS.x_train.sum()) - int(flat.sum())] += 1
    assert flat.sum() == ARRAYS.x_train.sum()
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS, x_train=flat)
    refused(tmp_path, "channel std of the training images")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_byte, "cannot be read"),
        (cut, "cannot be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read"),
        (lambda path: os.truncate(path, 10**12), "larger than the 68,608 bytes that are expected at most"),
        (single_array, "a single array, not an .npz archive"),
    ],
)
def test_damaged_npz(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS)
    harm(tmp_path / "fashion-mnist.npz")
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((10**9, 1, 28, 28), "|u1"), ((3 * 10**12,), "|u1"), ((10**30, 0), "|u1"), ((1,), "|V100000")]
)
def test_an_array_that_is_said_to_be_huge(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS, x_train=None)
    with zipfile.ZipFile(tmp_path / "fashion-mnist.npz", "a") as archive, archive.open("x_train.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    refused(tmp_path, r"array x_train is said to be .*, more than is expected at most")


def test_an_array_whose_header_is_no_header(tmp_path: Path) -> None:
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS, x_train=None)
    with zipfile.ZipFile(tmp_path / "fashion-mnist.npz", "a") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118)
    refused(tmp_path, r"cannot be read \(")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_byte, r"cannot be read \(Dataset not found or corrupted.*cifar-100-python"),
        (lambda path: os.truncate(path, 10**12), r"larger than the .* bytes .*cifar-100-python/train"),
    ],
)
def test_damaged_torchvision_files_are_not_unpickled(
    tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    arrays = make_arrays((3, 32, 32))
    spec = spec_of("cifar100", arrays, torchvision=write_cifar(tmp_path, arrays))
    harm(tmp_path / "cifar-100-python" / "train")
    with pytest.raises(UserError, match=f"cifar100: {message}"):
        _load(spec, tmp_path, False, lambda line: None)
