"""Who does a run: one process at a time; a dead owner keeps nothing; nothing is done twice or left half done."""

import errno
import json
import os
import tempfile

import pytest

from experiments.accuracy.work import Queue, work
from layerpipe2.errors import UserError
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.runs.train import train_run
from tests.small_experiments import UNTUNED, small


def test_the_records_are_what_a_run_in_this_process_gives(tmp_path, capsys):
    grid = small(tmp_path, UNTUNED)
    tasks = grid.choose(None, 3)
    assert Queue(grid, tasks, quiet=True).run(2, 0) == 0
    written = [path for path in grid.folder.rglob("*") if path.is_file()]
    assert written == [grid.folder / "runs" / "mlp-3" / cell_file.FILE]
    names = [json.loads(line)["name"] for line in written[0].read_text().splitlines()]
    assert names == ["latest-s0", "latest-s1", "stash-s0", "stash-s1"]
    for task in tasks:
        written = cell_file.read(grid.folder / task.path)
        expected = train_run(task.config, progress=False)
        assert {**written, "provenance": None} == {**expected, "provenance": None}
    assert "small: 4/4 runs" in capsys.readouterr().err


def test_all_runs_are_checked_before_the_first_one_starts(tmp_path):
    grid = small(tmp_path, UNTUNED, group_sizes=[3, 99])
    with pytest.raises(UserError, match="group size for 9 units is 99"):
        Queue(grid, grid.tasks).run(1, 0)
    assert not grid.folder.exists()


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    grid = small(tmp_path, UNTUNED)
    grid.folder.touch()
    with pytest.raises(UserError, match="can't be made"):
        Queue(grid, grid.tasks).run(1, 0)


def test_a_full_disk_loses_no_result(tmp_path, monkeypatch):
    grid, second, sync = small(tmp_path, UNTUNED), tmp_path / "second", os.fsync

    def full(handle):
        if f"{grid.folder}/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    second.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(second))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"records\.jsonl can't be written \(No space .*; until then the record is .*/second/"
    ):
        work(Queue(grid, grid.tasks[:1]), None)
    (kept,) = second.rglob("*.json")
    assert read_record(kept)["config"] == grid.tasks[0].config.to_dict()
    assert not [path for path in grid.folder.rglob("*") if path.is_file()]
