"""Truncated, incomplete or wrong data: one line that names the file and the remedy."""

import gzip
import os
import zipfile
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

ARRAYS = make_arrays()
SPEC = spec_of("fashion-mnist", ARRAYS)
IDX, GZ, NPZ = "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "fashion-mnist.npz"
IMAGE = "train/c0/*.png"


def refused(root, message):
    """Loading must fail with one line that matches and that states the remedy."""
    with pytest.raises(UserError, match=message) as caught:
        _load(SPEC, root, False, lambda line: None)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("fashion-mnist: ")
    assert str(root) in line
    assert "remove or replace this copy, then `apt-get install" in line


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[path.stat().st_size // 2 if path.suffix == ".png" else -5] ^= 255
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def holds(content):
    return lambda path: path.write_bytes(content)


def image_of_gigabytes(path):
    content = path.read_bytes()
    path.write_bytes(content[:16] + b"\0\0\xff\xff" * 2 + content[24:])


def endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, ARRAYS.x_train)


def said_to_be(shape, dtype="|u1"):
    def change(path):
        write_npz(path, ARRAYS, x_train=None)
        with zipfile.ZipFile(path, "a") as archive, archive.open("x_train.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})

    return change


def no_header(path):
    write_npz(path, ARRAYS, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118)


def archive(folder, arrays):
    write_npz(folder.with_suffix(".npz"), arrays)


gz, tree = partial(write_idx, compress=True), write_tree
BOMB = gzip.compress(bytes(10_000_000), mtime=0)
ZEROS = gzip.compress(b"\0" * 5000, mtime=0)  # part of the names of tests, which must not change with the second
CLASS_1 = r"train class 1 has 5 images, expected 6 \(17 images in all, expected 18\)"
UNREADABLE = r"not a readable PNG image of 8 bits; in .*/c0/\d+\.png"
NO_FILE = r"no regular file; in .*/train/c0/\d+\.png"
HUGE = r"array x_train is said to be .*, more than is expected at most"
DAMAGE = [
    (write_idx, IDX, flip_a_byte, rf"md5 \w+, expected \w+ \(1168 bytes\); in .*{IDX}"),
    (write_idx, IDX, cut, rf"md5 \w+, expected \w+ \(1128 bytes\); in .*{IDX}"),
    (write_idx, IDX, Path.unlink, rf"{IDX} \(or {GZ}\) is missing"),
    (write_idx, IDX, holds(bytes(70_000)), f"larger than the 68,608 bytes .*{IDX};"),
    (write_idx, IDX, endless, rf"{IDX} \(or {GZ}\) is missing"),
    (gz, GZ, holds(ZEROS[:-12]), r"md5 \w+, expected \w+ \(\d+ bytes\)"),
    (gz, GZ, holds(ZEROS), r"md5 \w+, expected \w+ \(5000 bytes\)"),
    (gz, GZ, holds(b"<html>"), r"cannot be read \(Error -3 while decompressing data: incorrect header"),
    (gz, GZ, holds(b""), r"md5 \w+, expected \w+ \(0 bytes\)"),
    (gz, GZ, holds(BOMB), r"md5 \w+, expected \w+ \(68608 bytes\)"),
    (tree, "train/c1/*.png", Path.unlink, CLASS_1),
    (tree, "test/c2", rmtree, r"2 class folders, expected 3; in .*/test"),
    (tree, "test/c2", lambda f: f.rename(f.with_name("d2")), "class folder c2 is not in both of train and test"),
    (tree, IMAGE, cut, UNREADABLE),
    (tree, IMAGE, flip_a_byte, UNREADABLE),
    (tree, "test/c0/*.png", holds(b""), UNREADABLE),
    (
        tree,
        IMAGE,
        lambda f: write_png(torch.zeros(1, 9, 8, dtype=torch.uint8), str(f)),
        r"9 x 8 pixels, expected 8 x 8",
    ),
    (tree, IMAGE, image_of_gigabytes, r"image of 65535 x 65535 pixels, expected 8 x 8; in .*\.png"),
    (tree, IMAGE, lambda f: Image.fromarray(np.zeros((8, 8), np.uint16)).save(f), UNREADABLE),
    (tree, IMAGE, endless, NO_FILE),
    (tree, IMAGE, pipe, NO_FILE),
    (archive, NPZ, flip_a_byte, "cannot be read"),
    (archive, NPZ, cut, "cannot be read"),
    (archive, NPZ, holds(b"PK\x03\x04"), "cannot be read"),
    (archive, NPZ, lambda f: os.truncate(f, 10**12), "larger than the 68,608 bytes that are expected at most"),
    (archive, NPZ, single_array, "a single array, not an .npz archive"),
    (archive, NPZ, no_header, r"cannot be read \("),
    *((archive, NPZ, said_to_be(shape), HUGE) for shape in ((10**9, 1, 28, 28), (3 * 10**12,), (10**30, 0))),
    (archive, NPZ, said_to_be((1,), "|V100000"), HUGE),
]


@pytest.mark.parametrize(("write", "where", "harm", "message"), DAMAGE)
def test_damaged_files_are_named(tmp_path, write, where, harm, message):
    write(tmp_path / "fashion-mnist", ARRAYS)
    harm(next(tmp_path.rglob(where)))
    refused(tmp_path, message)


def test_links_that_lead_round_are_not_followed(tmp_path):
    write_tree(tmp_path / "fashion-mnist", ARRAYS)
    (tmp_path / "fashion-mnist/train/c0/again").symlink_to(tmp_path / "fashion-mnist/train")
    assert len(_load(SPEC, tmp_path, False, lambda line: None).y_train) == len(ARRAYS.y_train)


def test_damaged_data_does_not_hide_behind_another_copy(tmp_path):
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS)
    write_idx(tmp_path / "fashion-mnist", ARRAYS)
    flip_a_byte(tmp_path / "fashion-mnist" / IDX)
    refused(tmp_path, "md5")


def same_mean():
    """Images of the same mean with hardly any spread."""
    flat = np.full_like(ARRAYS.x_train, int(ARRAYS.x_train.mean()))
    flat.ravel()[: int(ARRAYS.x_train.sum()) - int(flat.sum())] += 1
    return flat


MEAN = r"channel mean of the training images is 0\.\d{4}, expected 0\.\d{4}"


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
        ({"x_train": np.minimum(ARRAYS.x_train, 200)}, MEAN),
        ({"x_train": same_mean()}, "channel std of the training images"),
        ({"x_train": np.array([{}] * 18, dtype=object)}, r"cannot be read \(Object arrays"),
    ],
)
def test_other_data_than_the_published_are_refused(tmp_path, changes, message):
    write_npz(tmp_path / "fashion-mnist.npz", ARRAYS, **changes)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_byte, r"cannot be read \(Dataset not found or corrupted.*cifar-100-python"),
        (lambda path: os.truncate(path, 10**12), r"larger than the .* bytes .*cifar-100-python/train"),
    ],
)
def test_damaged_torchvision_files_are_not_unpickled(tmp_path, harm, message):
    arrays = make_arrays((3, 32, 32))
    spec = spec_of("cifar100", arrays, torchvision=write_cifar(tmp_path, arrays))
    harm(tmp_path / "cifar-100-python" / "train")
    with pytest.raises(UserError, match=f"cifar100: {message}"):
        _load(spec, tmp_path, False, lambda line: None)
