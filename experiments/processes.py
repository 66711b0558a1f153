"""Processes side by side, forked from a server that has imported everything once; none outlives its starter."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.errors import UserError
from layerpipe2.runs.lifetime import end_with_parent

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
    return server("layerpipe2.runs.worker")


def begin() -> None:
    """In a server's process: keep freed memory for the next step; end with the server, which ends with its starter."""
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
