"""Fixed runs of an experiment on machines that share nothing but a database."""

from contextlib import ExitStack, closing

import pytest

from experiments import run
from experiments.accuracy.work import Queue, work
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.tuning.places import Database, Folder
from tests.chaos.processes import ended, fork
from tests.small_experiments import FEW, UNTUNED, small


@pytest.fixture(scope="module")
def address(server):
    server.run("CREATE DATABASE runs")
    return server.address("runs")


@pytest.fixture
def opened():
    """Closes what it was given, at the end."""
    with ExitStack() as stack:
        yield lambda place: stack.enter_context(closing(place))


def test_two_machines_do_every_run_once_and_all_have_all_records(address, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    grids = [small(folder, FEW) for folder in folders]

    def machine(grid):
        work(Queue(grid, grid.tasks, quiet=True, storage=address), None)

    started = [fork(lambda grid=grid: machine(grid), tmp_path / "said") for grid in grids[:2]]
    assert [ended(process) for process in started] == [0, 0]
    run.main([str(folders[2] / "small.yaml"), "--out", str(grids[2].folder), "--storage", address, "--quiet"])
    for task in grids[0].tasks:
        one, other, late = (cell_file.read(grid.folder / task.path) for grid in grids)
        assert one == other == late  # its times as well: it was trained once


def test_a_run_has_one_owner_and_its_record_goes_to_the_others(address, opened, tmp_path):
    grid = small(tmp_path, UNTUNED, seeds=[7])
    task = grid.tasks[0]
    here, there = (opened(Database(tmp_path / name, address, "small")) for name in ("here", "there"))
    with here.holding(task.path) as first, there.holding(task.path) as second:
        assert (first, second) == (True, False)
    with there.holding(task.path) as mine:
        assert mine
    Queue(grid, [task], quiet=True).run(1, 0)
    record = grid.record(task)
    here.post(task.path, record)
    there.fetch([task.path])
    assert cell_file.read(tmp_path / "there" / task.path) == record


def test_machines_with_other_code_do_not_meet(address, opened, tmp_path, monkeypatch):
    here = opened(Database(tmp_path, address, "small"))
    monkeypatch.setattr("layerpipe2.lab.tuning.places.code_hash", lambda parts: "other")
    there = opened(Database(tmp_path, address, "small"))
    path = small(tmp_path, UNTUNED).tasks[0].path
    with here.holding(path) as first, there.holding(path) as second:
        assert (first, second) == (True, True)


def test_in_a_folder_a_lease_lies_beside_the_record(tmp_path):
    (tmp_path / "runs").mkdir()
    path = small(tmp_path, UNTUNED).tasks[0].path
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    with Folder(tmp_path).holding(path) as first, Folder(tmp_path).holding(path) as second:
        assert (first, second) == (True, False)
        assert (tmp_path / path).with_suffix(".lock").is_file()
