"""Who can connect to the store of a job lists its keys and spoils them, but can't speak for one of its ranks."""

import os
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import DistError

from layerpipe2.errors import UserError
from layerpipe2.pipeline import process_group
from layerpipe2.pipeline.environment import SECRET, interface_towards
from layerpipe2.pipeline.health import agreement
from layerpipe2.pipeline.health.watchdog import Watchdog
from layerpipe2.pipeline.process_group import ProcessGroup
from layerpipe2.pipeline.store import Notice, SignedPosts, _wait_for_server, host_store, join_store
from tests.cli.test_launch import Launched
from tests.pipeline import processes
from tests.pipeline.hosts import TOY


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setenv(SECRET, "a secret of the tests")
    return host_store("127.0.0.1", 0, 20.0)


@pytest.fixture
def stranger(store):
    """A connection to the same store."""
    return join_store("127.0.0.1", store.port, 20.0)


def test_posts_are_read_and_replaced_and_a_claim_holds(store, stranger):
    signed = SignedPosts(store, "place")
    signed.post("a", "one\ntwo, three")
    signed.post("b", "")
    assert SignedPosts(stranger, "place").read("abc") == {"a": "one\ntwo, three", "b": ""}
    signed.post("a", "other")
    assert signed.read("a") == {"a": "other"}
    assert [signed.claim("c", text) for text in ("mine", "late")] == ["mine", "mine"]


def test_a_server_that_answers_is_found_by_who_has_no_time_to_wait(store):
    assert _wait_for_server("127.0.0.1", store.port, 0.0) is None


FORGED = ["you are done", "", "0" * 64 + " you are done", b"\xff\xfe\x00"]


@pytest.mark.parametrize("text", FORGED)
def test_what_a_stranger_posts_counts_for_nothing(text, store, stranger):
    signed, notice = SignedPosts(store, "place"), Notice(store)
    for key in ("place/a", "layerpipe2/ranks/reason"):
        stranger.set(key, text)
    assert signed.read("a") == {"a": None}
    assert notice.read() is None
    assert signed.claim("a", "true") == "true"
    assert signed.read("a") == {"a": "true"}
    assert notice.propose("why") == notice.propose("later") == notice.read() == "why"


def test_a_signed_post_counts_in_its_place_only(store, stranger):
    signed = SignedPosts(store, "place")
    signed.post("a", "fine")
    for key in ("place/b", "other/a"):
        stranger.set(key, stranger.get("place/a"))
    assert signed.read("ab") == {"a": "fine", "b": None}
    assert SignedPosts(store, "other").read("a") == {"a": None}


def agree_with_a_secret_of_its_own():
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    os.environ[SECRET], agreement._LINGER_S = f"secret of rank {rank}", 2.0
    read = SignedPosts.read
    if rank:  # it is slow to look
        SignedPosts.read = lambda signed, names: time.sleep(0.5) or read(signed, names)
    store = (join_store if rank else host_store)("127.0.0.1", port, 20.0)
    try:
        agreement.check_agreement(store, rank, 2, {}, 20.0, member="node")
    except UserError as error:
        return str(error)
    return None


def test_members_with_another_secret_are_told_so():
    said = processes.run(agree_with_a_secret_of_its_own, 2)
    remedy = "give all nodes the same (--secret-file, or $LAYERPIPE2_SECRET)"
    assert said == [f"node {1 - rank} has another secret than node {rank}; {remedy}" for rank in range(2)]


def exchange(values):
    group = ProcessGroup(torch.device("cpu"), 20.0)
    found = group.gather(values[group.rank]), group.broadcast(values[group.rank], 1)
    group.close()
    return found


def test_processes_exchange_plain_values():
    values = [{"a": [1, 0.1, None, True]}, ("x" * 1000, Path("folder"), float("inf"))]
    plain = [values[0], ["x" * 1000, "folder", float("inf")]]
    assert processes.run(exchange, 2, values) == [(plain, plain[1])] * 2


def test_other_values_do_not_travel():
    """What torch offers for objects would unpickle whatever comes."""
    with pytest.raises(AssertionError, match=r"TypeError: expected str, bytes or os\.PathLike object, not set"):
        processes.run(exchange, 1, [{1}])


def listening(pids):
    """Addresses, as /proc writes them, on which these processes wait for connections."""
    sockets = [os.readlink(fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


LOOPBACK = re.compile(r"0100007F:[0-9A-F]{4}")


def test_a_job_of_one_machine_hears_this_machine_alone_and_no_stranger_there():
    launched = Launched("--processes", "2", "--", TOY, "none", "60", ranks=0)
    with launched.process as launcher:
        assert all("at step 25" in launcher.stdout.readline() for _ in range(2))
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        found = [listening([pid]) for pid in (launcher.pid, *map(int, children))]
        assert sum(map(bool, found)) == 3, found  # the launcher's store, and gloo in each rank
        assert [address for own in found for address in own if not LOOPBACK.fullmatch(address)] == []
        stranger = join_store("127.0.0.1", int(found[0][0].partition(":")[2], 16), 20.0)
        for key in ("layerpipe2/reason", "layerpipe2/ranks/reason"):
            stranger.set(key, "you are done")
        assert launched.end()[0::2] == (0, "")


def test_the_interface_towards_an_address():
    assert interface_towards("127.0.0.3") == "lo"
    assert interface_towards("no-such-host.invalid") is None


def test_without_a_launchers_setting_gloo_listens_to_this_machine_alone():
    found = processes.run(addresses_of_gloo, 2)
    assert [interface for interface, _ in found] == ["lo", "lo"]
    assert all(own and all(map(LOOPBACK.fullmatch, own)) for _, own in found), found


def addresses_of_gloo():
    del os.environ["GLOO_SOCKET_IFNAME"]
    group = ProcessGroup(torch.device("cpu"), 20.0)
    found = os.environ["GLOO_SOCKET_IFNAME"], listening([os.getpid()])
    group.close()
    return found


def test_a_rank_whose_store_is_gone_says_itself_why_it_ends(monkeypatch):
    """Under a launcher one rank of a machine says what all have to say; whether another has can't be asked here."""

    def gone(*arguments):
        raise DistError("no store")

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {"GROUP_RANK": "0", "RANK": "1", **address}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process_group, "_PATIENCE_S", 0.2)
    assert process_group._says_it()
    watchdog = Watchdog.__new__(Watchdog)
    watchdog._rank = 1
    assert watchdog._first_on_machine(SimpleNamespace(may_say=gone))
