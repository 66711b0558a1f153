"""An experiment, or another command, in processes of its own: started as DVC and users do, looked at, and killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.processes import descendants, read
from tests.small_experiments import ROOT


def start(folder: Path, *arguments: str, dvc: bool = False) -> subprocess.Popen[str]:
    """Start the experiment ``small.yaml`` of a folder, or a shell that does, as DVC starts it."""
    return start_module(folder, "experiments.run", "small.yaml", "--out", "out", *arguments, dvc=dvc)


def start_module(folder: Path, *arguments: str, dvc: bool = False) -> subprocess.Popen[str]:
    """Start a module of this project, or a shell that does, as DVC starts it."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", *arguments]
    if dvc:
        command, environment = ["bash", "-c", '"$@"; true', "bash", *command], environment | {"DVC_STAGE": "train"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and isn't collected yet doesn't."""
    return read(pid, "stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


def serves(main: int) -> bool:
    """Whether there is a server of training processes below ``main``."""
    return any("multiprocessing.forkserver" in read(pid, "cmdline") for pid in descendants(main))


def kill(process: subprocess.Popen[str], victim: int) -> tuple[float, str]:
    """Kill one process of a running experiment; returns the seconds until all others had ended, and what was said."""
    others = [process.pid, *descendants(process.pid)]
    os.kill(victim, signal.SIGKILL)
    since = time.monotonic()
    while any(map(alive, others)):
        time.sleep(0.01)
    took = time.monotonic() - since
    return took, process.communicate()[1]


def soon(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """What the condition gives once it is true, which it must be before long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
    return found
