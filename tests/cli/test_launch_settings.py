"""``layerpipe2 launch``: settings, ports and machines that are refused in one line, before any rank starts."""

import os
import socket

import pytest

from layerpipe2.cli import main


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "rank.py"
    path.touch()
    return str(path)


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_taken_port_is_one_line(script, server, capsys, monkeypatch):
    port = server.getsockname()[1]
    assert launch_here(monkeypatch, "--processes", "1", "--master", f"127.0.0.1:{port}", "--", script) == 2
    expected = f"layerpipe2: error: port {port} of 127.0.0.1 is taken by another program; give another port\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("node", "absent"),
    [
        ("0", "node 1 never came"),
        ("1", "rank 0, or node 0's launcher, never came: nothing answered at 127.0.0.1:{port}"),
    ],
)
def test_a_node_that_never_comes_is_named(script, node, absent, server, capsys, monkeypatch):
    port = server.getsockname()[1]
    server.close()
    arguments = ("--processes", "1", "--nodes", "2", "--node-rank", node, "--master", f"127.0.0.1:{port}")
    assert launch_here(monkeypatch, *arguments, "--timeout", "0.3", "--", script) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"layerpipe2: error: {absent.format(port=port)}")
    assert err.count("\n") == 1


MASTER = ["--processes", "1", "--master", "10.0.0.1:29500"]


def test_one_machine_stays_with_itself_and_makes_a_secret_for_every_job(script, monkeypatch, tmp_path):
    (tmp_path / "job").write_text("a secret of the tests\n")
    started = []
    starts = lambda command, **how: started.append((how["host"], how["port"], os.environ["LAYERPIPE2_SECRET"]))  # noqa: E731
    monkeypatch.setattr("layerpipe2.cli.ranks.launch", starts)
    given = ["--nodes", "2", "--secret-file", str(tmp_path / "job")]
    for more, value in (([], ""), ([], ""), ([], "of the environment"), (given, "")):
        assert launch_here(monkeypatch, *MASTER, *more, "--", script, secret=value) == 0
    (first, second, third, several), secrets = [one[:2] for one in started], [one[2] for one in started]
    assert first == second == third == ("127.0.0.1", 29500)
    assert several == ("10.0.0.1", 29500)
    assert secrets[2:] == ["of the environment", "a secret of the tests"]
    assert secrets[0] != secrets[1]
    assert [len(secret) for secret in secrets[:2]] == [64, 64]


def launch_here(monkeypatch, *arguments, secret="a secret of the tests"):
    """In this process, which keeps its environment: for launches that start no rank."""
    for name in ("OMP_NUM_THREADS", "TORCH_CPP_LOG_LEVEL", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("LAYERPIPE2_SECRET", secret)
    return main(["launch", *arguments])
