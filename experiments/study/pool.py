"""Many training runs side by side in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tqdm import tqdm

from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.records import Record, writable_folder, write_json

_LINES = 3  # of progress, where there is no terminal


def train_all(configs: Sequence[RunConfig], folder: Path, *, jobs: int, label: str) -> None:
    """Train every configuration and write ``folder/<strategy>-s<seed>.json`` as each run ends.

    The ``jobs`` processes are forked from a server that has imported everything once. All configurations are checked
    before the first run starts. Ctrl-C, or the end of this process, ends the workers too.

    Args:
        configs: the runs.
        folder: made if need be; refused before training if it can't be written.
        jobs: processes side by side; changes no result.
        label: name in the progress display.

    Raises:
        UserError: a run's own, or if a worker was killed.
    """
    writable_folder(folder)
    with workers(min(jobs, len(configs))) as pool:
        pool.submit(_check, configs).result()
        runs = {pool.submit(_train, config): config for config in configs}
        for run in _shown(list(runs), label):
            name = f"{runs[run].strategy}-s{runs[run].seed}.json"
            write_json(folder / name, run.result())


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that have imported everything and end with this one, whatever ends it.

    Raises:
        UserError: if a worker was killed.
    """
    _start_server()
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(jobs, context, initializer=_begin) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise UserError("a training process was killed; if memory ran out, lower execution.jobs") from None
        except BaseException:
            _end_now(pool)
            raise


def _start_server() -> None:
    # The server and its children inherit "ignored": Ctrl-C is the parent's business, also while the server imports.
    forkserver.set_forkserver_preload(["experiments.study.worker"])
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, previous)


def _begin() -> None:
    """In a worker: keep memory for the next step; end when the parent has ended, however it did."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _check(configs: Sequence[RunConfig]) -> None:
    from experiments.study.worker import check_runs

    check_runs(configs)


def _train(config: RunConfig) -> Record:
    from experiments.study.worker import train_quietly

    return train_quietly(config)


def _end_now(pool: ProcessPoolExecutor) -> None:
    """Drop what hasn't started and end the workers: a run that isn't finished leaves nothing behind.

    They are killed, because Lightning answers a polite request by ending its run, and the next one would start.
    """
    workers = list(pool._processes.values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()


def _shown(runs: list[Future[Record]], label: str) -> Iterator[Future[Record]]:
    """The runs as they end, under a bar on a terminal, with a few plain lines elsewhere."""
    terminal = sys.stderr.isatty()
    bar: tqdm[Any] = tqdm(total=len(runs), desc=label, unit="run", disable=not terminal)
    with bar:
        for done, run in enumerate(as_completed(runs), 1):
            yield run
            bar.update()
            if not terminal and (done % -(-len(runs) // _LINES) == 0 or done == len(runs)):
                print(f"{label}: {done}/{len(runs)} runs", file=sys.stderr, flush=True)
