"""Processes of the benchmark, and their hosts: results by rank, failures in one line, nothing left behind."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from experiments.hosts import Namespaces, enter, limited_hosts
from experiments.pipelines import processes
from experiments.pipelines.processes import in_random_order, run_ranks
from layerpipe2.errors import UserError
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.neighbours import Endpoint
from layerpipe2.planning.machine import round_trips
from tests.experiments.pipelines import peer_work
from tests.experiments.running import alive, soon
from tests.sampling import slow
from tests.small_experiments import ROOT


def test_results_come_in_the_order_of_the_ranks():
    found = run_ranks(peer_work.misbehave, 3, "", None, timeout=60)
    assert [rank for rank, _ in found] == [0, 1, 2]
    assert not any(map(alive, (pid for _, pid in found)))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("how", "bad", "timeout", "message"),
    [
        ("raises", 0, 60, "rank 0 failed: no such thing; give another"),
        ("breaks", 1, 60, "rank 1 failed: Traceback"),
        ("dies", 1, 60, "rank 1 died without a word"),
        ("hangs", 1, 2, r"ranks \[0, 1\] did not finish within 2 s"),
    ],
)
def test_a_failure_names_its_rank_and_ends_all(how, bad, timeout, message):
    with pytest.raises(UserError, match=rf"^{message}"):
        run_ranks(peer_work.misbehave, 2, how, bad, timeout=timeout)
    assert multiprocessing.active_children() == []


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


PARENT = """
import sys
from experiments.pipelines.processes import run_ranks
from tests.experiments.pipelines import peer_work

if __name__ == "__main__":
    run_ranks(peer_work.show_and_hang, 2, sys.argv[1])
"""


@slow
def test_ranks_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment, cwd=ROOT) as parent:
        try:
            soon(lambda: len(list(tmp_path.glob("rank*"))) == 2)
        finally:
            parent.send_signal(signal.SIGKILL)
    pids = [int(file.read_text()) for file in tmp_path.glob("rank*")]
    soon(lambda: not any(map(alive, pids)))


def way_of_messages():
    endpoint = Endpoint(dist.get_rank(), 2, torch.device("cpu"), timedelta(seconds=20), Watch())
    link = endpoint.inbox(-1, 0, slots=2, ahead=1) if endpoint.rank else endpoint.outbox(+1, 0, depth=2)
    return type(link).__name__


def test_a_limited_link_is_slower_and_no_namespace_is_left(capsys):
    assert run_ranks(way_of_messages, 2) == ["SharedOutbox", "SharedInbox"]  # on one host
    with limited_hosts(2) as hosts:
        if hosts is None:
            assert "no hosts with limited links (" in capsys.readouterr().out
            return
        hosts.limit(0.5)
        (seconds,) = run_ranks(round_trips, 2, [2**22], places=hosts.names)[0]
        assert seconds > 0.9 * 2 * 2**25 / 0.5e9  # a busy machine takes longer, none less
        assert run_ranks(way_of_messages, 2, places=hosts.names) == ["Outbox", "Inbox"]  # over the link, not by memory
        names = set(hosts.names)
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout.split()
    assert not names & set(listed)


def test_without_hosts_one_line_says_why(monkeypatch, capsys):
    def refuse(self):
        raise subprocess.CalledProcessError(2, "ip", stderr="Operation not\npermitted\n")

    monkeypatch.setattr(Namespaces, "set_up", refuse)
    with limited_hosts(2) as hosts:
        assert hosts is None
    expected = "no hosts with limited links (Operation not permitted); they need root, iproute2 and tc's tbf\n"
    assert capsys.readouterr().out == expected
    with pytest.raises(OSError, match="lp2-nowhere"):
        enter("lp2-nowhere")
