"""A process that has imported torch once and forks ranks: ten experiments without fifty imports.

It reads one experiment per line (JSON) and answers with how its ranks ended and what they wrote.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from layerpipe2.cli.console import run_command
from tests.distributed.toy_pipeline import train

REPOSITORY = Path(__file__).parents[2]


class ForkServer:
    """Starts the process; use as a context manager."""

    def __enter__(self) -> ForkServer:
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.distributed.fork_server"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, **pipes)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def run(self, **experiment: Any) -> list[dict[str, Any]]:
        """Per rank: ``code`` (minus the signal if killed; None: still alive when time was up) and ``stderr``."""
        self._process.stdin.write(json.dumps(experiment) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _experiment(
    world_size: int, fault: str, limit_s: float, absent: int = -1, resume: int = -1, **how: Any
) -> list[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"world_size": world_size, "host": "127.0.0.1", "port": port, "fault": fault, **how}
    texts = {rank: os.memfd_create(str(rank)) for rank in range(world_size) if rank != absent}
    pids = {rank: _fork(text, rank=rank, **settings) for rank, text in texts.items()}
    codes = _wait(pids, limit_s, resume)
    return [{"rank": rank, "code": codes.get(rank), "stderr": _content(text)} for rank, text in texts.items()]


def _content(text: int) -> str:
    os.lseek(text, 0, os.SEEK_SET)
    with os.fdopen(text) as file:
        return file.read()


def _fork(text: int, **settings: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(text, 2)
    code: Any = 1
    try:
        code = run_command("layerpipe2", lambda _: train(**settings), None)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


def _wait(pids: dict[int, int], limit_s: float, resume: int) -> dict[int, int]:
    """Exit codes of the ranks that ended; when only ``resume`` is left (stopped), it goes on. The rest is killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + limit_s
    while len(codes) < len(pids) and time.monotonic() < end:
        for rank in pids.keys() - codes.keys():
            ended, status = os.waitpid(pids[rank], os.WNOHANG)
            if ended:
                codes[rank] = os.waitstatus_to_exitcode(status)
        if pids.keys() - codes.keys() == {resume}:
            os.kill(pids[resume], signal.SIGCONT)
        time.sleep(0.02)
    for rank in pids.keys() - codes.keys():
        os.kill(pids[rank], signal.SIGKILL)
        os.waitpid(pids[rank], 0)
    return codes


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_experiment(**json.loads(line))), flush=True)
