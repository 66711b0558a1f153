"""Several hosts, each with its own launcher, meeting over the network."""

import re
import signal
import socket
import sys
from contextlib import contextmanager

import pytest

from tests.pipeline.hosts import LIMIT_S, TOY, hosts, start
from tests.sampling import slow

with socket.create_server(("", 0)) as probe:
    PORT = probe.getsockname()[1]


@contextmanager
def launched(network, number, *rank_arguments):
    """One launcher of one rank per host; none outlives the block."""
    started = []
    try:
        for node in range(number):
            options = ("--nodes", str(number), "--node-rank", str(node), "--master", f"{network.address(0)}:{PORT}")
            launch = (sys.executable, "-m", "layerpipe2", "launch", "--processes", "1", *options)
            command = network.command(node, *launch, "--", TOY, *rank_arguments)
            started.append(start(command, LAYERPIPE2_SECRET="a secret of the tests"))
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()


@slow
def test_three_hosts_train_over_the_network():
    with hosts(3) as network, launched(network, 3, "none", "30") as launchers:
        for node, launcher in enumerate(launchers):
            out, err = launcher.communicate(timeout=LIMIT_S)
            assert (launcher.returncode, out, err) == (0, f"[rank {node}] rank {node} at step 25\n", "")


@slow
@pytest.mark.parametrize("lost", [1, 0])
def test_a_host_that_is_cut_off_ends_the_others_with_one_line_that_names_it(lost):
    with hosts(3) as network, launched(network, 3, "none", "100000") as launchers:
        for node, launcher in enumerate(launchers):
            assert launcher.stdout.readline() == f"[rank {node}] rank {node} at step 25\n"
        network.cut_off(lost, launchers[lost])
        for node, launcher in enumerate(launchers):
            if node == lost and not network.lost_hosts_notice:
                continue
            _, err = launcher.communicate(timeout=LIMIT_S)
            assert launcher.returncode == 2
            named = {lost} if node != lost else {0, 1, 2} - {lost}
            assert re.fullmatch(r"\[rank \d\] layerpipe2: .* (no sign|gone).*; all ranks end\n", err), err
            assert {int(rank) for rank in re.findall(r" rank (\d)", err)} & named, err
            assert err.count("\n") == 1, err


@slow
def test_a_rank_killed_on_one_host_is_named_with_its_signal_on_all():
    with hosts(2) as network, launched(network, 2, "kill@1", "100000") as launchers:
        for launcher in launchers:
            _, err = launcher.communicate(timeout=LIMIT_S)
            assert launcher.returncode == 2
            line = r"(\[rank 0\] )?layerpipe2: rank 1 \(.*\) was killed by SIGKILL; all ranks end\n"
            assert re.fullmatch(line, err), err


@slow
def test_plain_torchrun_starts_the_same_ranks():
    """Its own dynamic rendezvous finds out by host names which node serves it; namespaces share one."""
    with hosts(2) as network:
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{network.address(0)}:{PORT}", "--rdzv-id", "job")
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
        started = []
        try:
            for node in range(2):
                place = ("--local-addr", network.address(node), "--rdzv-conf", f"is_host={int(node == 0)}")
                command = network.command(node, *torchrun, *rendezvous, *place, TOY, "none", "30")
                started.append(start(command, GLOO_SOCKET_IFNAME=network.interface))
            ends = [process.communicate(timeout=LIMIT_S) for process in started]
        finally:
            for process in started:
                process.kill()
                process.communicate()
        assert [process.returncode for process in started] == [0, 0], ends
        assert [out for out, _ in sorted(ends)] == ["rank 0 at step 25\n", "rank 1 at step 25\n"]
