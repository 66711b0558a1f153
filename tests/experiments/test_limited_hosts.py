"""Hosts of the regime map: limited links are slower, and nothing is left behind."""

import subprocess
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from experiments.hosts import Namespaces, enter, limited_hosts
from experiments.pipelines.processes import run_ranks
from layerpipe2.pipeline.links import Watch
from layerpipe2.pipeline.neighbours import Endpoint
from layerpipe2.planning.machine import round_trips


def test_a_limited_link_is_slower_and_no_namespace_is_left(capsys):
    with limited_hosts(2) as hosts:
        if hosts is None:
            assert "no hosts with limited links (" in capsys.readouterr().out
            return
        for gigabits in (1, 0.25):
            hosts.limit(gigabits)
            (seconds,) = run_ranks(round_trips, 2, [2**22], places=hosts.names)[0]
            assert seconds > 0.9 * 2 * 2**25 / (gigabits * 1e9)  # a busy machine takes longer, none less
        assert run_ranks(way_of_messages, 2, places=hosts.names) == ["Outbox", "Inbox"]  # over the link, not by memory
        names = set(hosts.names)
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout.split()
    assert not names & set(listed)


def way_of_messages():
    endpoint = Endpoint(dist.get_rank(), 2, torch.device("cpu"), timedelta(seconds=20), Watch())
    link = endpoint.inbox(-1, 0, slots=2, ahead=1) if endpoint.rank else endpoint.outbox(+1, 0, depth=2)
    return type(link).__name__


def test_processes_of_one_host_share_memory():
    assert run_ranks(way_of_messages, 2) == ["SharedOutbox", "SharedInbox"]


def test_without_them_one_line_says_why(monkeypatch, capsys):
    def refuse(self):
        raise subprocess.CalledProcessError(2, "ip", stderr="Operation not\npermitted\n")

    monkeypatch.setattr(Namespaces, "set_up", refuse)
    with limited_hosts(2) as hosts:
        assert hosts is None
    expected = "no hosts with limited links (Operation not permitted); they need root, iproute2 and tc's tbf\n"
    assert capsys.readouterr().out == expected


def test_a_namespace_that_is_not_there_is_not_entered():
    with pytest.raises(OSError, match="lp2-nowhere"):
        enter("lp2-nowhere")
