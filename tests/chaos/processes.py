"""Processes of cases: started by forking one that has imported everything, looked at in /proc, and ended."""

import atexit
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

from tests.chaos.attack import Failed

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def fork(work: Callable[[], object], log: Path) -> int:
    """Run ``work`` in a child, which writes what it says to ``log`` and ends with the code that is returned, if any."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code: object = 1
    try:
        atexit._clear()  # what the parent has registered is the parent's
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = work()
        atexit._run_exitfuncs()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def ended(pid: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pids: Iterable[int]) -> None:
    """End processes; those that are gone don't matter."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def adopt() -> None:
    """From now on, what this process's children leave running becomes its own child."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def check_none_left(grace_s: float = 2.0) -> None:
    """Whatever this process has started must be gone after a moment; multiprocessing's tracker ends with it.

    Raises:
        Failed: if it isn't; it is ended then.
    """
    deadline = time.monotonic() + grace_s
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = [pid for pid in descendants(os.getpid()) if pid != resource_tracker._resource_tracker._pid]
        if not left:
            return
        if time.monotonic() > deadline:
            names = [read(pid, "cmdline").replace("\0", " ")[:80] for pid in left]
            kill(left)
            raise Failed("left", f"processes: {names}")
        time.sleep(0.01)


def descendants(parent: int) -> Iterator[int]:
    """Children, each before its own, and so on."""
    for child in map(int, read(parent, f"task/{parent}/children").split()):
        yield child
        yield from descendants(child)


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def resident_gb(pid: int) -> float:
    """Memory of a process, in gigabytes."""
    pages = read(pid, "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30 if pages else 0.0


def read(pid: int, name: str) -> str:
    """A file of a process in /proc; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""
