"""Processes side by side, forked from a server that has imported everything once; none outlives its starter."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

from tqdm import tqdm

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.errors import UserError
from layerpipe2.lab.runs.lifetime import end_with_parent

_LINES = 3  # of progress, where there is no terminal
_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"  # it would tell of the semaphores of a killed starter


def server(*preload: str) -> ForkServerContext:
    """What starts processes, forked from a server that has imported the modules ``preload``.

    The server and the processes ignore Ctrl-C, also while the server imports: it is their starter's business.
    """
    if _QUIET not in sys.warnoptions:
        sys.warnoptions.append(_QUIET)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.end_with_starter", *preload])
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, previous)
    return context


def training_server() -> ForkServerContext:
    """The server of training processes. To start it early saves time: its imports take seconds."""
    return server("layerpipe2.lab.runs.worker", "experiments.field.rows")


def begin() -> None:
    """Keep freed memory for the next step, and end with the server of this process, which ends with its starter."""
    keep_freed_memory()
    end_with_parent()
    starter = multiprocessing.parent_process()
    if starter is None or not starter.is_alive():  # it ended before the kernel was asked
        os._exit(1)


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that train; whatever ends the block early ends them, too.

    Raises:
        UserError: if a worker was killed.
    """
    with ProcessPoolExecutor(jobs, training_server(), initializer=begin) as pool:
        try:
            yield pool
        except BaseException as error:  # drop what hasn't started, and end the workers
            processes = list(pool._processes.values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()  # Lightning answers a polite request, also the pool's own, by going on to the next run
            if isinstance(error, BrokenProcessPool | EOFError | ConnectionError):  # of a worker, or of the server
                raise UserError("a training process was killed; if memory ran out, lower jobs") from None
            raise


def follow(
    pool: ProcessPoolExecutor,
    calls: Iterable[tuple[Any, ...]],
    name: str,
    unit: str,
    total: int,
    finished: Callable[[], int],
    *,
    look_s: float | None,
    bar: bool = False,
    lines: bool = False,
    more: Callable[[int], str] = lambda done: "",
) -> None:
    """Have workers do some calls, and wait for their ends, with a bar or a few lines on stderr.

    Args:
        pool: the workers.
        calls: a function and its arguments for each of them.
        name: of what they do, and ``unit`` of it.
        total: of units; ``finished`` counts them.
        look_s: how often they are counted; None: when a worker has ended.
        bar: whether there is a bar.
        lines: whether there are :data:`_LINES` lines.
        more: what a line ends with, from the number that is finished.

    Raises:
        Exception: a worker's own.
    """
    waiting, shown = {pool.submit(*call) for call in calls}, 0
    pool.submit(os.getpid)  # or CPython's pool wouldn't watch the process that was started last
    with tqdm(total=total, desc=name, unit=unit, disable=not bar) as progress:
        while waiting:
            ended, waiting = wait(waiting, look_s, FIRST_EXCEPTION)
            for future in ended:
                future.result()
            done = finished()
            progress.update(done - progress.n)
            if lines and done * _LINES // total > shown:
                shown = done * _LINES // total
                print(f"{name}: {done}/{total} {unit}s{more(done)}", file=sys.stderr, flush=True)
