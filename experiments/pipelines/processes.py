"""Run a function in fresh processes that form a gloo group; nothing is left behind, whatever happens to one of them.

The processes are forked from a server that has only imported the packages: they start in a fraction of a second, and
each one's memory is its own. They meet at a file, hence need no free port, wherever they are.
"""

import os
import pickle
import random
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from experiments import hosts
from experiments.processes import begin, server
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.errors import UserError
from layerpipe2.lab.provenance import provenance

T = TypeVar("T")

# A server with threads should not fork; gloo needs this machine alone; torch's profiler need not tell when it starts.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "KINETO_LOG_LEVEL": "99",
}


def whereabouts() -> dict[str, Any]:
    """Provenance of times, with the number of cores, and how many of them something else keeps busy.

    To be asked for while nothing is measured. (The load average would still know of what has just been measured.)
    """
    return provenance(torch.device("cpu")) | {"cores": os.cpu_count(), "busy_cores": _busy_cores(2.0)}


def _busy_cores(seconds: float) -> float:
    """How many cores were busy during the next ``seconds``, in which this process does nothing."""
    before = _busy_time()
    time.sleep(seconds)
    return round((_busy_time() - before) / seconds, 2)


def _busy_time() -> float:
    """Seconds that all cores have worked since the machine was started, those that a hypervisor took included."""
    cells = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _, _, interrupts, soft, stolen = map(int, cells)
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def in_random_order(items: Sequence[T], rounds: int, seed: str = "") -> Iterator[tuple[int, T]]:
    """Round after round, every item once: what makes the machine slow for a while does not always hit the same one.

    Yields:
        The number of the round, and an item.
    """
    for number in range(rounds):
        for item in random.Random(f"{seed} {number}").sample(items, len(items)):
            yield number, item


def run_ranks(
    work: Callable[..., T], ranks: int, *arguments: Any, timeout: float = 600.0, places: Sequence[str] = ()
) -> list[T]:
    """Call ``work(*arguments)`` on ``ranks`` processes of one thread each, within a process group.

    Args:
        work: a function of a module that can be imported.
        ranks: number of processes.
        arguments: sent to every process; must pickle.
        timeout: s after which all processes are ended.
        places: a network namespace for every rank (:mod:`experiments.hosts`); by default all are on this host.

    Returns:
        The results in the order of the ranks.

    Raises:
        UserError: naming the rank that failed, died or did not finish, with its reason.
    """
    os.environ.update(_ENVIRONMENT)
    context = server("experiments.pipelines.measure", "sklearn.datasets")
    limit = timedelta(seconds=timeout + 60)  # the caller's comes first
    with tempfile.TemporaryDirectory() as folder:
        group = {"backend": "gloo", "init_method": f"file://{folder}/store", "world_size": ranks, "timeout": limit}
        pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            context.Process(target=_rank, args=(group | {"rank": rank}, place, sender, work, arguments), daemon=True)
            for rank, ((_, sender), place) in enumerate(zip(pipes, places or [""] * ranks, strict=True))
        ]
        try:
            for process, (_, sender) in zip(processes, pipes, strict=True):
                process.start()
                sender.close()  # so that the end of the process is the end of the pipe
            return _collect([receiver for receiver, _ in pipes], timeout)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _collect(receivers: list[Connection], timeout: float) -> list[Any]:
    """Results by rank; a failure is raised without waiting for the ranks that can't go on."""
    results, failures = dict[int, Any](), list[tuple[float, str]]()
    open_, end = dict(enumerate(receivers)), time.monotonic() + timeout
    while open_:
        # A rank's death soon fails its neighbours: the earliest failure is the cause.
        ready = wait(open_.values(), 0.5 if failures else max(0.0, end - time.monotonic()))
        if not ready:
            break
        for rank in [r for r, receiver in open_.items() if receiver in ready]:
            try:
                when, answer = pickle.loads(open_.pop(rank).recv_bytes())
            except EOFError:
                when, answer = 0.0, f"rank {rank} died without a word"
            if when is None:
                results[rank] = answer
            else:
                failures.append((when, answer))
    if failures:
        raise UserError(min(failures)[1])
    if open_:
        raise UserError(f"ranks {sorted(open_)} did not finish within {timeout:g} s")
    return [results[rank] for rank in sorted(results)]


def _rank(
    group: dict[str, Any], place: str, sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    begin()
    keep_freed_memory()  # as training in several processes does: without it page faults slow down some and not others
    torch.set_num_threads(1)
    answer: tuple[float | None, Any]
    try:
        if place:
            hosts.enter(place)
            os.environ["GLOO_SOCKET_IFNAME"] = hosts.Namespaces.interface
        dist.init_process_group(**group)
        answer = None, work(*arguments)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else traceback.format_exc()
        answer = time.monotonic(), f"rank {group['rank']} failed: {reason}"
    # Bytes: as objects, tensors would travel as handles, which end with this process.
    sender.send_bytes(pickle.dumps(answer))
    threading.Event().wait()  # a rank that leaves takes its connections along: the caller ends all together
