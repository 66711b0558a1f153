"""Data sets are found in every format, in the order of places, and are what their rows say."""

import hashlib
from pathlib import Path

import pytest
import torch
from data_files import make_arrays, spec_of, write_cifar, write_idx, write_npz, write_tree

from layerpipe2.errors import UserError
from layerpipe2.lab.data import DATASETS, IMAGES, BatchLoader, load, loading, split
from layerpipe2.lab.data.loading import _load
from layerpipe2.lab.data.specs import DatasetSpec
from tests.sampling import sampled

PARTS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No data of this machine: neither its environment variable nor its ./data."""
    monkeypatch.delenv("LAYERPIPE2_DATA", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def found(spec, root, download=False):
    lines: list[str] = []
    return _load(spec, root, download, lines.append), lines


def same(a, b):
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in PARTS)


def test_digits_are_always_the_same():
    data = load("digits")
    assert (data.x_train.shape, data.x_test.shape) == ((1347, 1, 8, 8), (450, 1, 8, 8))
    assert int(data.x_train.max()) == 255
    assert not data.flippable
    pixels = data.x_train / 255
    assert data.mean == pytest.approx([float(pixels.mean())], abs=1e-6)
    assert data.std == pytest.approx([float(pixels.std(correction=0))], abs=1e-6)
    # Written down once: another split or order would change every recorded run.
    content = b"".join(getattr(data, part).numpy().tobytes() for part in PARTS)
    assert hashlib.sha256(content).hexdigest().startswith("e07c9b849b0643d2")


def test_every_format_gives_the_same_arrays(tmp_path):
    arrays = make_arrays()
    spec = spec_of("fashion-mnist", arrays)
    write_idx(tmp_path / "a" / "FashionMNIST" / "raw", arrays)
    write_idx(tmp_path / "b" / "fashion-mnist", arrays, compress=True)
    write_idx(tmp_path / "c", arrays)
    write_tree(tmp_path / "d" / "fashion-mnist", arrays)
    (tmp_path / "d" / "fashion-mnist" / "train" / ".hidden").mkdir()
    write_tree(tmp_path / "e", arrays)
    write_npz(tmp_path / "f" / "fashion-mnist.npz", arrays)
    loaded = {root: found(spec, tmp_path / root)[0] for root in "abcdef"}
    assert all(same(loaded["a"], data) for data in loaded.values())
    assert loaded["a"].source == f"idx files in {tmp_path}/a/FashionMNIST/raw"
    assert loaded["d"].source == f"image-folder tree {tmp_path}/d/fashion-mnist"
    assert loaded["f"].source == f"{tmp_path}/f/fashion-mnist.npz"
    # The same images with the same labels, whatever their order.
    pairs = sorted((y, x.tobytes()) for x, y in zip(arrays.x_train, arrays.y_train.tolist(), strict=True))
    x, y = loaded["a"].x_train.numpy(), loaded["a"].y_train.tolist()
    assert sorted((label, image.tobytes()) for image, label in zip(x, y, strict=True)) == pairs


def test_torchvisions_cifar_files_give_the_same_arrays_as_a_tree(tmp_path):
    arrays = make_arrays((3, 32, 32))
    spec = spec_of("cifar100", arrays, torchvision=write_cifar(tmp_path / "a", arrays))
    write_tree(tmp_path / "b" / "cifar100", arrays)
    data, lines = found(spec, tmp_path / "a")
    assert lines == [f"cifar100: reading torchvision's files in {tmp_path}/a/cifar-100-python"]
    assert same(data, found(spec, tmp_path / "b")[0])
    assert data.flippable
    assert len(data.mean) == len(data.std) == 3


def test_root_goes_before_the_environment_before_the_default_before_the_system(tmp_path, monkeypatch):
    arrays = make_arrays()
    spec = spec_of("fashion-mnist", arrays, system_folder=str(tmp_path / "system"))
    for folder in ("root", "environment", "cwd/data", "system"):
        write_idx(tmp_path / folder, arrays)
    assert found(spec, None)[0].source == "idx files in data"
    monkeypatch.setenv("LAYERPIPE2_DATA", str(tmp_path / "environment"))
    assert found(spec, None)[0].source == f"idx files in {tmp_path}/environment"
    assert found(spec, tmp_path / "root")[0].source == f"idx files in {tmp_path}/root"
    (tmp_path / "empty").mkdir()
    data, lines = found(spec, tmp_path / "empty")
    assert data.source == f"idx files in {tmp_path}/system"
    assert lines[0].startswith("fashion-mnist: no idx files, train/<class>/*.png or fashion-mnist.npz in ")
    assert lines[1] == f"fashion-mnist: reading {data.source}"


def test_a_download_is_read_and_verified(tmp_path):
    arrays = make_arrays()

    def fake_torchvision(root, train, download):
        assert download
        write_idx(Path(root) / "FashionMNIST" / "raw", arrays)

    spec = spec_of("fashion-mnist", arrays, torchvision=fake_torchvision)
    data, lines = found(spec, tmp_path / "new", download=True)
    assert lines == [f"fashion-mnist: reading torchvision's download into {tmp_path}/new"]
    assert len(data.y_train) == 18
    assert found(spec, tmp_path / "new")[1] == [f"fashion-mnist: reading idx files in {tmp_path}/new/FashionMNIST/raw"]


def no_network(root, **_):
    raise OSError("<urlopen error [Errno -3]>\nmore")


@pytest.mark.parametrize(
    ("changes", "environment", "message"),
    [
        ({"torchvision": no_network}, "", r"download failed \(<urlopen error.*check the network"),
        ({"system_folder": "/system"}, "", r"no data found; looked for idx files.* in data and in /system; .*apt-get"),
        ({}, "/gone", r"data folder /gone \(environment variable LAYERPIPE2_DATA\) is not a directory"),
    ],
)
def test_data_that_are_nowhere_are_one_line_with_the_remedy(changes, environment, message, monkeypatch):
    monkeypatch.setenv("LAYERPIPE2_DATA", environment)
    with pytest.raises(UserError, match=message) as caught:
        found(spec_of("fashion-mnist", make_arrays(), **changes), None, download="torchvision" in changes)
    assert "\n" not in str(caught.value)


def test_the_rows_are_the_published_sizes_under_names_of_their_own():
    assert [row.name for row in DATASETS.values()] == [*DATASETS]
    assert len({row.label for row in DATASETS.values()}) == len(DATASETS)
    sizes = {
        name: (s.per_class[0] * s.num_classes, s.per_class[1] * s.num_classes, s.num_classes)
        for name, s in IMAGES.items()
        if not (s.read or s.compute or s.half_of or s.read_folder)
    }
    assert sizes == {
        "fashion-mnist": (60000, 10000, 10),
        "cifar10": (50000, 10000, 10),
        "cifar100": (50000, 10000, 100),
    }
    assert IMAGES["cifar100"].mean == (0.5071, 0.4865, 0.4409)


# They ship with a dependency or are computed; the others must be downloaded. To compute data takes ten seconds.
AT_HAND = [
    name
    for name, row in DATASETS.items()
    if (bool(row.read or row.compute) if isinstance(row, DatasetSpec) else row.ships)
]
READ = [name for name in AT_HAND if not getattr(DATASETS[name], "compute", None)]


@pytest.mark.parametrize("name", sampled(AT_HAND, READ))
def test_data_at_hand_are_what_the_row_says_and_give_batches(name):
    row, lines = DATASETS[name], []
    data, again = load(name, announce=lines.append), load(name)
    assert lines == [f"{name}: reading {data.source}"]
    assert (data.name, data.input_shape, data.num_classes) == (name, row.input_shape, row.num_classes)
    assert same(data, again)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert (len(x), x.dtype, y.dtype) == (len(y), torch.uint8, torch.int64)
        assert 0 <= int(y.min()) <= int(y.max()) < data.num_classes
    loader = BatchLoader(split(data, 0.2, seed=0).train, 8, mean=data.mean, std=data.std, seed=0)
    x, y = next(iter(loader))
    assert (x.shape, len(y)) == ((8, *row.input_shape), 8)
    assert x.isfinite().all()


def test_halved_images_are_the_means_of_four_pixels(tmp_path, monkeypatch):
    arrays = make_arrays((1, 28, 28))
    monkeypatch.setitem(loading.IMAGES, "fashion-mnist", spec_of("fashion-mnist", arrays))
    write_npz(tmp_path / "fashion-mnist.npz", arrays)
    whole, half = (load(name, root=tmp_path) for name in ("fashion-mnist", "fashion-mnist-14"))
    assert (half.name, half.input_shape, half.flippable) == ("fashion-mnist-14", (1, 14, 14), True)
    assert torch.equal(half.y_train, whole.y_train)
    assert torch.equal(half.y_test, whole.y_test)
    for small, large in ((half.x_train, whole.x_train), (half.x_test, whole.x_test)):
        square = large[:, 0, 4:6, 10:12].double().mean((1, 2))
        assert torch.equal(small[:, 0, 2, 5], torch.floor(square + 0.5).to(torch.uint8))
        assert (small.double().mean() - large.double().mean()).abs() < 0.3
    pixels = half.x_train.double() / 255
    assert half.mean == pytest.approx([float(pixels.mean())], abs=1e-9)
    assert half.std == pytest.approx([float(pixels.std(correction=0))], abs=1e-9)
