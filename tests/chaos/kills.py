"""Kills of a running experiment: nothing goes on without its starter, and what was killed goes on where it was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from layerpipe2.runs.records import read_record
from tests.small_experiments import ROOT, TUNED, write_experiment

VICTIMS = ("run", "shell of DVC", "server", "worker")


def start(folder: Path, *arguments: str, dvc: bool = False) -> subprocess.Popen[str]:
    """Start the experiment ``small.yaml`` of a folder, or a shell that does, as DVC starts it."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "experiments.run", "small.yaml", "--out", "out", *arguments]
    if dvc:
        command, environment = ["bash", "-c", '"$@"; true', "bash", *command], environment | {"DVC_STAGE": "train"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)


def descendants(parent: int) -> list[int]:
    """Processes that a process has started, and those that these have started."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [pid for child in map(int, children) for pid in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and isn't collected yet doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def victims(main: int, name: str) -> list[int]:
    """``main``, or those of the processes below it that have this name."""
    if name == "shell of DVC":
        return [main]
    below = {pid: _command(pid) for pid in (main, *descendants(main))}
    if name == "run":
        return [pid for pid, command in below.items() if command[1:3] == ["-m", "experiments.run"]]
    forked = [pid for pid, command in below.items() if "multiprocessing.forkserver" in " ".join(command)]
    return forked[:1] if name == "server" else forked[1:]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def kill(process: subprocess.Popen[str], victim: int) -> tuple[float, str]:
    """Kill one process of a running experiment; returns the seconds until all others had ended, and what was said."""
    others = [process.pid, *descendants(process.pid)]
    os.kill(victim, signal.SIGKILL)
    since = time.monotonic()
    while any(map(alive, others)):
        time.sleep(0.01)
    took = time.monotonic() - since
    return took, process.communicate()[1]


def kill_case(rng: random.Random, folder: Path) -> float:
    """Kill one process of an experiment at some time, then let the experiment go on; returns the seconds of the end.

    Beside its progress it says at most one line, records are whole or not there, nothing else is left, and the next
    start finishes.
    """
    write_experiment(folder, TUNED, jobs=2)
    name, dvc = rng.choice(VICTIMS), rng.random() < 0.5
    with start(folder, "--quiet", dvc=dvc or name == "shell of DVC") as process:
        while process.poll() is None and not victims(process.pid, name):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 4.0))
        found = victims(process.pid, name)
        took, said = kill(process, rng.choice(found)) if found and process.poll() is None else (0.0, "")
    assert len([line for line in said.splitlines() if not line.startswith("small: ")]) <= 1, said
    for path in (folder / "out").rglob("*.json"):
        read_record(path)
    with start(folder, "--quiet") as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "all 18 runs of small are finished" in output
    assert {path.suffix for path in (folder / "out").rglob("*") if path.is_file()} == {".json"}
    return took
