"""Fixed runs of an experiment on machines that share nothing but a database."""

import os
import subprocess
import sys
from contextlib import ExitStack, closing

import pytest

from experiments.work import Queue
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.tuning.places import Database, Folder
from tests.small_experiments import FEW, ROOT, UNTUNED, small, write_experiment


@pytest.fixture(scope="module")
def address(server):
    server.run("CREATE DATABASE runs")
    return server.address("runs")


@pytest.fixture
def opened():
    """Closes what it was given, at the end."""
    with ExitStack() as stack:
        yield lambda place: stack.enter_context(closing(place))


def test_two_machines_do_every_run_once_and_both_have_all_records(address, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    started = []
    for folder in folders:
        folder.mkdir()
        options = (write_experiment(folder, FEW), "--out", str(folder), "--storage", address, "--quiet")
        command = (sys.executable, "-m", "experiments.run", *options, "--jobs", "1")
        started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL))
    assert [process.wait() for process in started] == [0, 0]
    for task in small(tmp_path, FEW).tasks:
        one, other = (read_record(folder / task.path) for folder in folders)
        assert one == other  # its times as well: it was trained once


def test_a_run_has_one_owner_and_its_record_goes_to_the_others(address, opened, tmp_path):
    grid = small(tmp_path, UNTUNED, seeds=[7])
    task = grid.tasks[0]
    here, there = (opened(Database(tmp_path / name, address, "small")) for name in ("here", "there"))
    with here.claimed(task.path) as first, there.claimed(task.path) as second:
        assert (first, second) == (True, False)
    with there.claimed(task.path) as mine:
        assert mine
    Queue(grid, [task], quiet=True).run(1, 0)
    record = grid.record(task)
    here.post(task.path, record)
    there.fetch([task.path])
    assert read_record(tmp_path / "there" / task.path) == record


def test_machines_with_other_code_do_not_meet(address, opened, tmp_path, monkeypatch):
    here = opened(Database(tmp_path, address, "small"))
    monkeypatch.setattr("layerpipe2.lab.tuning.places.code_hash", lambda parts: "other")
    there = opened(Database(tmp_path, address, "small"))
    path = small(tmp_path, UNTUNED).tasks[0].path
    with here.claimed(path) as first, there.claimed(path) as second:
        assert (first, second) == (True, True)


def test_in_a_folder_a_lease_lies_beside_the_record(tmp_path):
    (tmp_path / "runs").mkdir()
    path = small(tmp_path, UNTUNED).tasks[0].path
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    with Folder(tmp_path).claimed(path) as first, Folder(tmp_path).claimed(path) as second:
        assert (first, second) == (True, False)
        assert (tmp_path / path).with_suffix(".lock").is_file()
