"""Leases: one owner at a time; a dead one keeps nothing."""

import os
import subprocess
import sys
import time
from threading import Barrier, Thread

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.tuning.leases import Leases
from tests.small_experiments import ROOT

SHORT = 0.2


def test_one_owner_at_a_time(tmp_path):
    lock = tmp_path / "run.lock"
    with Leases().holding(lock) as first, Leases().holding(lock) as second:
        assert (first, second) == (True, False)
        assert lock.is_file()
    assert not list(tmp_path.iterdir())


def test_an_error_gives_the_lease_back(tmp_path):
    with pytest.raises(ValueError, match="a bug"), Leases().holding(tmp_path / "run.lock"):
        raise ValueError("a bug")
    assert not list(tmp_path.iterdir())


DYING = """
import os, sys
from pathlib import Path
from layerpipe2.errors import UserError
from layerpipe2.lab.tuning.leases import Leases
with Leases().holding(Path(sys.argv[1])) as mine:
    os._exit(0 if mine else 1)
"""


def test_the_lease_of_a_dead_process_is_taken_over_at_once(tmp_path):
    lock = tmp_path / "run.lock"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", DYING, str(lock)], env=environment, check=True)
    assert lock.is_file()
    leases = Leases()
    with leases.holding(lock) as mine:
        assert mine
        assert leases.known[lock].pid == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("age", [0, 60])
def test_a_lock_that_stays_empty_is_taken_over(tmp_path, age):
    lock, leases, found = tmp_path / "run.lock", Leases(), []
    lock.touch()  # whose owner was killed between making and writing it, or is about to write it
    os.utime(lock, (time.time() - age,) * 2)
    for pause in (0, 0, 2.1):  # marked, seen, and taken over after the two seconds that filelock waits
        time.sleep(pause)
        with leases.holding(lock) as mine:
            found.append(mine)
    assert found == [False, False, bool(age)]
    assert lock.is_file() != bool(age)


def _foreign(lock, duration=SHORT):
    """A lease that another machine has."""
    lines = ["filelock/2", f"pid={os.getpid()}", "host=elsewhere", "mode=lease", "token=abc", f"duration={duration}"]
    lock.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("renewed", [True, False])
def test_another_machines_lease_is_taken_over_when_it_is_not_renewed_any_more(tmp_path, renewed):
    lock, leases = tmp_path / "run.lock", Leases(SHORT)
    _foreign(lock)
    with leases.holding(lock) as mine:
        assert not mine
    for _ in range(3 if renewed else 1):
        time.sleep(1.5 * SHORT)
        if renewed:
            os.utime(lock)
        with leases.holding(lock) as mine:
            assert mine != renewed


def test_an_owner_renews_its_lease(tmp_path):
    lock = tmp_path / "run.lock"
    with Leases(SHORT).holding(lock):
        os.utime(lock, (1.0, 1.0))
        while lock.stat().st_mtime == 1.0:
            time.sleep(0.01)


def test_an_owner_that_lost_its_lease_leaves_it_alone(tmp_path):
    lock = tmp_path / "run.lock"
    with Leases().holding(lock):
        lock.unlink()
        _foreign(lock)
    assert lock.is_file()


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_many_at_once_one_wins(tmp_path, abandoned):
    count, winners = 8, []

    def attempt(lock, barrier):
        leases = Leases(SHORT)
        if abandoned:
            with leases.holding(lock) as mine:  # begins to watch it
                assert not mine
            time.sleep(1.5 * SHORT)
        barrier.wait()
        with leases.holding(lock) as mine:
            barrier.wait()  # nobody lets go before everybody has tried
            if mine:
                winners.append(lock)

    for number in range(10):
        lock, barrier = tmp_path / f"{number}.lock", Barrier(count)
        if abandoned:
            _foreign(lock)
        threads = [Thread(target=attempt, args=(lock, barrier)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(winners) == len(set(winners)) == 10
    assert not list(tmp_path.iterdir())


def test_a_lease_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "none").touch()
    with (
        pytest.raises(UserError, match=r"run\.lock can't be written \("),
        Leases().holding(tmp_path / "none" / "run.lock"),
    ):
        pass
