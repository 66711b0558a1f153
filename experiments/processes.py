"""Processes side by side, forked from a server that has imported everything once; none outlives its starter."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.errors import UserError


def server(*preload: str) -> ForkServerContext:
    """What starts processes, forked from a server that has imported the modules ``preload``.

    The server and the processes ignore Ctrl-C, also while the server imports: it is their starter's business.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload])
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, previous)
    return context


def training_server() -> ForkServerContext:
    """The server of training processes. To start it early saves time: its imports take seconds."""
    return server("experiments.worker")


def begin() -> None:
    """In a process of a server: keep freed memory for the next step; end when the starter has ended, however it did."""
    keep_freed_memory()
    starter = multiprocessing.parent_process()
    assert starter is not None

    def end_with_starter() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=end_with_starter, daemon=True).start()


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that train; whatever ends the block early ends them, too.

    Raises:
        UserError: if a worker was killed.
    """
    with ProcessPoolExecutor(jobs, training_server(), initializer=begin) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise UserError("a training process was killed; if memory ran out, lower jobs") from None
        except BaseException:  # drop what hasn't started, and end the workers
            processes = list(pool._processes.values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()  # Lightning answers a polite request by ending its run, and the next one would start
            raise
