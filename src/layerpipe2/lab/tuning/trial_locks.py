"""Which process does a trial: one at a time; a dead owner's trial is done by another.

The lock is a lease beside the record for processes that see one folder, and one that the database's server holds for
processes on any machines. Neither outlives its owner, and nobody's clocks are compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from layerpipe2.lab.tuning.leases import Leases

WORKER = "worker"
"""Attribute of a trial: host and process of who does it, and since when (``time.time()``)."""
Lock = Callable[[FrozenTrial], AbstractContextManager[bool]]
"""Trial -> whether this process has it, and keeps it within."""

_TRIALS = 0x1A7E2  # tells locks of trials from those that others take in the same database
_KEEPALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
"""Of the server's end of a connection: an owner whose machine doesn't answer for a minute is gone."""


@dataclass(frozen=True)
class TrialLocks:
    """How a process gets a trial that waits, or whose owner has died."""

    storage: BaseStorage
    lock: Lock

    @contextmanager
    def holding(self, trial: FrozenTrial) -> Iterator[bool]:
        """Whether this process has the trial; it keeps it within. An error, or Ctrl-C, gives the trial back."""
        identity = trial._trial_id
        with self.lock(trial) as mine:
            state = self.storage.get_trial(identity).state if mine else TrialState.COMPLETE
            if state.is_finished():
                yield False
                return
            if state == TrialState.WAITING:
                self.storage.set_trial_state_values(identity, TrialState.RUNNING)
            self.storage.set_trial_user_attr(identity, WORKER, [gethostname(), os.getpid(), time.time()])
            try:
                yield True
            except BaseException:
                with suppress(Exception):  # such as a storage that is gone: then others find the lock free
                    self.storage.set_trial_state_values(identity, TrialState.WAITING)
                raise


def by_leases(folder: Path) -> Lock:
    """Lock a trial by a file in ``folder`` that is named after the trial's number."""
    leases = Leases()
    return lambda trial: leases.holding(folder / f"{trial.number:05d}.lock")


def by_database(engine: Any) -> Lock:
    """Lock a trial by a lock that the database's server holds, see :func:`server_lock`."""
    return lambda trial: server_lock(engine, _TRIALS, trial._trial_id)


@contextmanager
def server_lock(engine: Any, kind: int, number: int) -> Iterator[bool]:
    """A lock that PostgreSQL gives a connection (an ``sqlalchemy.Engine`` makes it) and takes back when it ends."""
    from sqlalchemy import func, select

    settings = [func.set_config(name, value, False) for name, value in _KEEPALIVE.items()]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        mine = connection.execute(select(func.pg_try_advisory_lock(kind, number), *settings)).one()[0]
        try:
            yield mine
        finally:
            if mine:
                with suppress(Exception):  # a connection that is gone has no locks
                    connection.execute(select(func.pg_advisory_unlock(kind, number)))
