"""MNIST-1D: the copy in the data folder, and a package that is missing or another one.

To compute the published 30,000 curves takes seconds, and test_data_sources.py does; here there are 60.
"""

import random
import sys
from hashlib import blake2b
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from mnist1d.data import get_dataset_args, make_dataset

from layerpipe2.errors import UserError
from layerpipe2.lab.data import load, mnist1d

NAME, TRAIN = "mnist1d.bin", 40


@pytest.fixture(scope="module")
def curves():
    """What the package computes; its global seeds are put back."""
    states = random.getstate(), np.random.get_state()
    settings = get_dataset_args()
    settings.num_samples, settings.train_split = 60, 2 / 3
    made = make_dataset(settings)
    random.setstate(states[0])
    np.random.set_state(states[1])
    return made


@pytest.fixture(autouse=True)
def kept(curves, monkeypatch):
    """The rows that are kept of them: 40 levels and the label of each."""
    x, y = (np.concatenate([curves[name], curves[f"{name}_test"]]) for name in "xy")
    content = np.column_stack([np.round((x + 5) * 25.5).clip(0, 255), y]).astype(np.uint8).tobytes()
    for name, value in {"_TRAIN": TRAIN, "_TEST": 20, "_SIZE": 60 * 41}.items():
        monkeypatch.setattr(mnist1d, name, value)
    monkeypatch.setattr(mnist1d, "_BLAKE2B", blake2b(content, digest_size=16).hexdigest())
    return content


def package(monkeypatch, **made):
    """Put another package in the place of mnist1d; the settings that it is called with."""
    calls, module = [], ModuleType("mnist1d.data")
    module.get_dataset_args = SimpleNamespace
    module.make_dataset = lambda settings: calls.append(settings) or made
    monkeypatch.setitem(sys.modules, "mnist1d", ModuleType("mnist1d"))
    monkeypatch.setitem(sys.modules, "mnist1d.data", module)
    return calls


def test_the_curves_are_images_of_height_1_and_no_global_generator_moves(tmp_path):
    torch.manual_seed(1)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    data = load("mnist1d", tmp_path)
    assert (random.getstate(), str(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (data.x_train.shape, data.x_test.shape) == ((TRAIN, 1, 1, 40), (20, 1, 1, 40))
    assert not data.flippable


def test_the_copy_is_read_without_the_package(tmp_path, kept, monkeypatch):
    (tmp_path / NAME).write_bytes(kept)
    monkeypatch.setitem(sys.modules, "mnist1d", None)
    monkeypatch.setenv("LAYERPIPE2_DATA", str(tmp_path))
    data = load("mnist1d")
    assert data.source == "what the package mnist1d computes"
    assert sorted(data.y_train.tolist()) == sorted(kept[40 : TRAIN * 41 : 41])


@pytest.mark.parametrize(
    "harm", [lambda kept: bytes([kept[0] ^ 1]) + kept[1:], lambda kept: kept[:-1], lambda kept: kept + b"1", None]
)
def test_a_damaged_or_missing_copy_is_computed_and_written_anew(harm, tmp_path, kept, curves, monkeypatch):
    folder = tmp_path / "data"
    if harm:
        folder.mkdir()
        (folder / NAME).write_bytes(harm(kept))
    calls = package(monkeypatch, **curves)
    load("mnist1d", folder)
    assert [(call.num_samples, call.train_split) for call in calls] == [(60, 2 / 3)]
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [(NAME, kept)]
    load("mnist1d", folder)
    assert len(calls) == 1


@pytest.mark.parametrize("place", ["a file", "no/such/folder", "taken"])
def test_without_a_folder_to_write_to_the_data_are_there(place, tmp_path, curves, monkeypatch):
    (tmp_path / "a file").touch()
    (tmp_path / "taken" / NAME).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    package(monkeypatch, **curves)
    assert len(load("mnist1d", tmp_path / place).x_train) == TRAIN
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("missing", ["mnist1d", "requests"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(missing, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mnist1d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    message = (
        rf"^mnist1d: the package {missing}.*, which computes the data, is missing; `pip install '\.\[lab\]'` in .*$"
    )
    with pytest.raises(UserError, match=message):
        load("mnist1d", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["x", "y_test"])
def test_other_data_are_refused_and_not_kept(part, tmp_path, curves, monkeypatch):
    made = {name: np.array(values) for name, values in curves.items() if name in ("x", "y", "x_test", "y_test")}
    made[part].flat[7] += 1
    package(monkeypatch, **made)
    message = r"^mnist1d: the installed mnist1d, numpy and scipy compute other data .*; `pip install -c constr.*$"
    with pytest.raises(UserError, match=message):
        load("mnist1d", tmp_path)
    assert not any(tmp_path.iterdir())
