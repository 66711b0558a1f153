"""Processes of the benchmark: results by rank, failures in one line, nobody left behind."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.pipelines import processes
from experiments.pipelines.processes import in_random_order, run_ranks
from layerpipe2.errors import UserError
from tests.experiments.pipelines import peer_work
from tests.experiments.running import alive, soon
from tests.sampling import slow


def test_results_come_in_the_order_of_the_ranks():
    found = run_ranks(peer_work.rank, 3, timeout=60)
    assert [rank for rank, _ in found] == [0, 1, 2]
    assert not any(map(alive, (pid for _, pid in found)))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "failed: no such thing; give another"),
        ("breaks", "failed: Traceback"),
        ("dies", "died without a word"),
    ],
)
def test_a_failure_names_its_rank_and_ends_all(how, message, bad):
    with pytest.raises(UserError, match=rf"^rank {bad} {message}"):
        run_ranks(peer_work.misbehave, 2, how, bad, timeout=60)
    assert multiprocessing.active_children() == []


def test_a_rank_that_hangs_is_ended():
    with pytest.raises(UserError, match=r"^ranks \[0, 1\] did not finish within 2 s"):
        run_ranks(peer_work.misbehave, 2, "hangs", 1, timeout=2)
    assert multiprocessing.active_children() == []


PARENT = """
import sys
from experiments.pipelines.processes import run_ranks
from tests.experiments.pipelines import peer_work

if __name__ == "__main__":
    run_ranks(peer_work.show_and_hang, 2, sys.argv[1])
"""


def test_every_round_has_every_item_once_in_an_order_of_its_own():
    state, items = random.getstate(), list(range(20))
    found = list(in_random_order(items, 3))
    assert [number for number, _ in found] == [0] * 20 + [1] * 20 + [2] * 20
    orders = [[item for number, item in found if number == one] for one in range(3)]
    assert all(sorted(order) == items for order in orders)
    assert orders[0] != orders[1] != orders[2] != items
    assert found == list(in_random_order(items, 3))
    assert random.getstate() == state


def test_busy_cores_are_those_of_others(monkeypatch):
    times = iter(("cpu  100 20 30 4000 50 6 7 8 90 0\n", "cpu  190 40 70 9000 99 16 17 28 180 0\n"))
    monkeypatch.setattr(processes.Path, "read_text", lambda path: next(times))
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(processes.os, "sysconf", lambda name: 100)
    assert processes._busy_cores(2.0) == (90 + 20 + 40 + 10 + 10 + 20) / 100 / 2


@slow
def test_ranks_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment, cwd=root) as parent:
        try:
            soon(lambda: len(list(tmp_path.glob("rank*"))) == 2)
        finally:
            parent.send_signal(signal.SIGKILL)
    pids = [int(file.read_text()) for file in tmp_path.glob("rank*")]
    soon(lambda: not any(map(alive, pids)))
