"""Tuning from Python: a study with as many processes as are wanted, each doing trials of one queue."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerpipe2.cli.own import source_hash
from layerpipe2.errors import UserError, integer
from layerpipe2.lab.own.training import OwnRun, called
from layerpipe2.lab.provenance import TUNING, git_state
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.lifetime import STARTER
from layerpipe2.lab.runs.plan import plan_from
from layerpipe2.lab.tuning import MOST_JOBS
from layerpipe2.lab.tuning.results import Status, status
from layerpipe2.lab.tuning.settings import StudySettings
from layerpipe2.lab.tuning.space import Space
from layerpipe2.lab.tuning.study import Study, open_or_make, work
from layerpipe2.versions import code_hash

_LOOK_S = 1.0


def tune(
    config: RunConfig,
    space: Mapping[str, str],
    *,
    folder: Path,
    trials: int = 20,
    jobs: int = 1,
    storage: str | None = None,
    name: str = "study",
    module: str | None = None,
    stages: int | None = None,
    follow: Callable[[Status], None] | None = None,
    **settings: Any,
) -> Study:
    """Search a space of settings for the best runs, and return the study with all its trials done.

    Every trial is an ordinary run, trained on the training part and judged by the validation part; the test part is
    not looked at. Its record lies in ``folder/trials``. A study that was stopped, however, goes on where it was.

    Args:
        config: the settings that aren't tuned.
        space: setting -> range, as in ``{"lr": "log:1e-4:1"}``; see :mod:`layerpipe2.lab.tuning.space`.
        folder: of the records, and of the study itself unless there is a ``storage``.
        trials: the budget, over all processes and machines; a larger one than last time adds trials.
        jobs: processes on this machine.
        storage: address of a PostgreSQL database, for several machines: the same call on each.
        name: of the study in that database.
        module: ``package.module:function`` that returns a network (or its stages), a tuple of loaders of training and
            validation batches, and the loss: they take the place of network and data in ``config``, and trials have no
            records.
        stages: into how many its network is cut, by measured times; by default two.
        follow: called about once a second with how far the study is, and at its end.
        settings: further ones of :class:`layerpipe2.lab.tuning.settings.StudySettings`, such as ``objectives``.

    Raises:
        UserError: on settings that don't go together, a study of other settings or code, or a storage that can't be
            used.
    """
    integer(jobs, "jobs", 1, MOST_JOBS)
    wanted = study_settings(config, space, trials=trials, module=module, stages=stages, **settings)
    study = open_or_make(wanted, folder, storage, name)
    with _helpers(study, min(jobs, trials) - 1), _followed(study, follow):
        work([study])
    study.fetch_records()
    if follow is not None:
        follow(status(study))
    return study


def study_settings(
    config: RunConfig,
    space: Mapping[str, str],
    *,
    trials: int,
    module: str | None = None,
    stages: int | None = None,
    **settings: Any,
) -> StudySettings:
    """The settings of a study of this code, after a look at the runs at the ends of every range.

    Raises:
        UserError: as :func:`tune`.
    """
    read, at = Space.of(space, config), tuple[str, ...]()
    build: Callable[[RunConfig], Any] = plan_from
    if module is not None:
        run = OwnRun.made(module, called(module, config), config, stages)
        if run.own.validation is None:
            raise UserError(f"{module} returns no validation data, which judge trials; return (train, validation)")
        build, at = run.module, run.at
    for changes in ({}, *read.ends(config)):
        build(config.copy_with(**changes))
    commit, _ = git_state(Path(__file__).parent)
    return StudySettings(
        config=config,
        space=read.texts,
        trials=trials,
        module=module,
        at=at,
        code=code_hash(TUNING) + source_hash(module),
        commit=commit,
        **settings,
    )


@contextmanager
def _helpers(study: Study, number: int) -> Iterator[None]:
    """Further processes that take from the queue; they end with the block, and with this process."""
    command = [sys.executable, "-m", "layerpipe2", "tune", "join", "--quiet", "--out", str(study.folder)]
    command += ["--study", study.name, *(("--storage", study.url) if study.url else ())]
    environment = os.environ | {STARTER: str(os.getpid())}
    started = []
    try:
        for _ in range(number):
            started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        yield
    finally:  # nothing is left to be done, or this process can't go on; one that has failed has said why
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def _followed(study: Study, follow: Callable[[Status], None] | None) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        pause = _LOOK_S
        while follow is not None and not over.wait(pause):
            began = time.monotonic()
            try:
                follow(status(study))
            except Exception:  # the storage is away; who does the trials says so
                return
            pause = max(_LOOK_S, 50 * (time.monotonic() - began))  # of thousands of trials a look takes a while

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
