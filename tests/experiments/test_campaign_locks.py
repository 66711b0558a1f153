"""Who does a run: one process at a time; a dead owner holds nothing; a killed campaign goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Barrier, Thread

import pytest
from campaign_profiles import ROOT, SCRIPT, write_params

from experiments.campaign import locks
from experiments.campaign.locks import claimed, stale


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with claimed(lock) as first, claimed(lock) as second:
        assert (first, second) == (True, False)
        assert lock.is_file()
    assert not list(tmp_path.iterdir())


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug"), claimed(tmp_path / "run.lock"):
        raise ValueError("a bug")
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    command = "import os, sys, pathlib; from experiments.campaign import locks; locks._take(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", command, str(lock)], env=environment, check=True)
    assert lock.is_file()
    assert stale(lock)
    with claimed(lock) as mine:
        assert mine
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def _foreign(lock: Path, age: float) -> None:
    """A lock of another machine that was last touched ``age`` seconds ago."""
    lock.write_text(json.dumps({"machine": "elsewhere", "pid": os.getpid(), "start": "1"}))
    os.utime(lock, (time.time() - age,) * 2)


@pytest.mark.parametrize(("age", "taken"), [(0.0, False), (locks.STALE / 2, False), (2 * locks.STALE, True)])
def test_another_machines_lock_is_taken_over_when_it_is_not_touched_any_more(
    tmp_path: Path, age: float, taken: bool
) -> None:
    _foreign(tmp_path / "run.lock", age)
    with claimed(tmp_path / "run.lock") as mine:
        assert mine == taken


def test_a_lock_that_is_not_written_yet_is_respected(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    with claimed(tmp_path / "run.lock") as mine:
        assert not mine


def test_an_owner_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.01)
    lock = tmp_path / "run.lock"
    with claimed(lock):
        os.utime(lock, (1.0, 1.0))
        while lock.stat().st_mtime == 1.0:
            time.sleep(0.01)


def test_an_owner_that_lost_its_lock_leaves_it_alone(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with claimed(lock):
        _foreign(lock, 0.0)
    assert lock.is_file()


def test_a_process_that_died_while_taking_over_does_not_block(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    _foreign(lock, 2 * locks.STALE)
    _foreign(tmp_path / "run.lock.takeover", 2 * locks.STALE)
    with claimed(lock) as first:
        assert not first
    with claimed(lock) as second:
        assert second


@pytest.mark.parametrize("age", [None, 2 * locks.STALE])
def test_of_many_at_once_one_wins(tmp_path: Path, age: float | None) -> None:
    count, winners = 8, []

    def attempt(lock: Path, barrier: Barrier) -> None:
        barrier.wait()
        with claimed(lock) as mine:
            barrier.wait()  # nobody lets go before everybody has tried
            if mine:
                winners.append(lock)

    for number in range(20):
        lock, barrier = tmp_path / f"{number}.lock", Barrier(count)
        if age is not None:
            _foreign(lock, age)
        threads = [Thread(target=attempt, args=(lock, barrier)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(winners) == len(set(winners)) == 20
    assert not list(tmp_path.iterdir())


def _popen(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--profile", "tiny", "--params", str(folder / "params.yaml"), "--yes"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)  # fmt: skip


def _records(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*.json")}


def test_a_killed_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    write_params(tmp_path, jobs=2)
    with _popen(tmp_path) as process:
        while len(_records(tmp_path)) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = _records(tmp_path)
    assert 3 <= len(kept) < 18
    assert all(json.loads(content)["status"] == "completed" for content in kept.values())
    with _popen(tmp_path) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "all 18 runs of tiny are finished" in output
    after = _records(tmp_path)
    assert len(after) == 18
    assert {path: after[path] for path in kept} == kept, "a finished run is not done again"
    assert not list(tmp_path.rglob("*.lock"))


def test_two_campaigns_share_a_folder_and_no_run_is_done_twice(tmp_path: Path) -> None:
    write_params(tmp_path)
    with _popen(tmp_path) as one, _popen(tmp_path) as other:
        found = [process.communicate() for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], found
    lines = [line for _, errors in found for line in errors.splitlines() if "validation" in line]
    labels = [line.split(" ", 1)[1].split(":")[0] for line in lines]
    assert len(labels) == len(set(labels)) == 18
