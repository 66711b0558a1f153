"""MNIST-1D: the published curves, the copy in the data folder, and a package that is missing or another one."""

import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.lab.data import Data, load, mnist1d

NAME = "mnist1d.bin"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What is kept after the data were computed once, which leaves the global generators as they were."""
    folder = tmp_path_factory.mktemp("data")
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    mnist1d.read_mnist1d(folder)
    assert (random.getstate(), str(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [path.name for path in folder.iterdir()] == [NAME]
    return (folder / NAME).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, kept: bytes) -> Path:
    (tmp_path / NAME).write_bytes(kept)
    return tmp_path


def package(monkeypatch: pytest.MonkeyPatch, **made: Any) -> list[Any]:
    """Put another package in the place of mnist1d; the settings that it is called with."""
    calls: list[Any] = []
    module = ModuleType("mnist1d.data")
    module.get_dataset_args = SimpleNamespace  # type: ignore[attr-defined]
    module.make_dataset = lambda settings: calls.append(settings) or made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mnist1d", ModuleType("mnist1d"))
    monkeypatch.setitem(sys.modules, "mnist1d.data", module)
    return calls


def rows(kept: bytes) -> dict[str, Any]:
    """Curves and labels, as the package gives them, that become the rows which are kept."""
    table = np.frombuffer(kept, np.uint8).reshape(-1, 41).astype(np.float64)
    x, y = table[:, :-1] / 25.5 - 5, table[:, -1].astype(int)
    return {"x": x[:20000], "y": y[:20000], "x_test": x[20000:], "y_test": y[20000:]}


def test_the_curves_are_images_of_height_1(folder: Path) -> None:
    data = load("mnist1d", folder)
    assert (data.x_train.shape, data.x_test.shape) == ((20000, 1, 1, 40), (10000, 1, 1, 40))
    assert (data.y_train.bincount() + data.y_test.bincount()).tolist() == [3000] * 10
    assert data.mean == pytest.approx([0.5], abs=2e-3)
    assert data.std == pytest.approx([0.1], abs=2e-3)
    assert not data.flippable


def test_the_copy_is_read_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mnist1d", None)
    monkeypatch.setenv("LAYERPIPE2_DATA", str(folder))
    data = load("mnist1d")
    assert isinstance(data, Data)
    assert data.source == "what the package mnist1d computes"


@pytest.mark.parametrize("harm", ["flipped", "short", "long", "missing"])
def test_a_damaged_copy_is_computed_and_written_anew(
    harm: str, folder: Path, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / NAME
    path.unlink()
    if harm != "missing":
        flipped = bytes([kept[0] ^ 1]) + kept[1:]
        path.write_bytes({"flipped": flipped, "short": kept[:-1], "long": kept + b"1"}[harm])
    calls = package(monkeypatch, **rows(kept))
    load("mnist1d", folder)
    assert [(call.num_samples, call.train_split) for call in calls] == [(30000, 2 / 3)]
    assert [file.name for file in folder.iterdir()] == [NAME]
    assert path.read_bytes() == kept
    load("mnist1d", folder)
    assert len(calls) == 1


def test_a_folder_that_does_not_exist_is_made(tmp_path: Path, kept: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, **rows(kept))
    load("mnist1d", tmp_path / "data")
    assert (tmp_path / "data" / NAME).read_bytes() == kept


@pytest.mark.parametrize("place", ["a file", "no/such/folder"])
def test_without_a_folder_to_write_to_the_data_are_there(
    place: str, tmp_path: Path, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    package(monkeypatch, **rows(kept))
    assert len(load("mnist1d", tmp_path / place).x_train) == 20000
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_place_that_holds_something_else_is_left_alone(
    tmp_path: Path, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).mkdir()
    package(monkeypatch, **rows(kept))
    load("mnist1d", tmp_path)
    assert [(path.name, path.is_dir()) for path in tmp_path.iterdir()] == [(NAME, True)]


@pytest.mark.parametrize("missing", ["mnist1d", "requests"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mnist1d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    message = r"^mnist1d: the package .*, which computes the data, is missing; `pip install '\.\[lab\]'` in .*$"
    with pytest.raises(UserError, match=message) as caught:
        load("mnist1d", tmp_path)
    assert f"package {missing}" in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["x", "y_test"])
def test_other_data_are_refused_and_not_kept(
    part: str, tmp_path: Path, kept: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rows(kept)
    made[part].flat[7] += 1
    package(monkeypatch, **made)
    message = r"^mnist1d: the installed mnist1d, numpy and scipy compute other data .*; `pip install -c constr.*$"
    with pytest.raises(UserError, match=message):
        load("mnist1d", tmp_path)
    assert not any(tmp_path.iterdir())
