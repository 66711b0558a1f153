"""Which process does a trial: exactly one, unless its owner is suspended; a dead owner's trial is done by another."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import Protocol
from uuid import uuid4

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from layerpipe2.tuning.leases import Leases

BEAT, WORKER = "beat", "worker"
SILENCE = 60.0
"""Seconds without a beat after which an owner, on another machine, is taken for dead."""


class Claims(Protocol):
    """How a process gets a trial that waits, or whose owner has died."""

    def claimed(self, trial: FrozenTrial) -> AbstractContextManager[bool]:
        """Whether this process has the trial; it keeps it within. If it doesn't finish it, the trial waits again."""


@dataclass(frozen=True)
class FolderClaims:
    """By leases beside the records, for processes that see one folder: a dead owner on this machine is seen at once."""

    storage: BaseStorage
    folder: Path
    leases: Leases = field(default_factory=Leases)

    @contextmanager
    def claimed(self, trial: FrozenTrial) -> Iterator[bool]:
        """By the lease of the trial's number."""
        with self.leases.claimed(self.folder / f"{trial.number:05d}.lock") as mine:
            state = self.storage.get_trial(trial._trial_id).state if mine else TrialState.COMPLETE
            if state.is_finished():
                yield False
                return
            if state == TrialState.WAITING:
                self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            self.storage.set_trial_user_attr(trial._trial_id, WORKER, this_worker())
            with _waiting_again(self.storage, trial._trial_id):
                yield True


@dataclass(frozen=True)
class DatabaseClaims:
    """By the state of the trial's row and a beat that its owner writes there, for processes on any machines.

    Nobody's clocks are compared: who waits for a trial measures how long its beat stays the same.
    """

    storage: BaseStorage
    silence: float = SILENCE
    seen: dict[int, tuple[str, float]] = field(default_factory=dict)

    @contextmanager
    def claimed(self, trial: FrozenTrial) -> Iterator[bool]:
        """By making it a running one, which one process succeeds in."""
        if not self._taken(trial):
            yield False
            return
        over = threading.Event()
        threading.Thread(target=self._beat, args=(trial._trial_id, over), daemon=True).start()
        try:
            self.storage.set_trial_user_attr(trial._trial_id, WORKER, this_worker())
            with _waiting_again(self.storage, trial._trial_id):
                yield True
        finally:
            over.set()

    def _taken(self, trial: FrozenTrial) -> bool:
        try:
            if trial.state == TrialState.RUNNING and self._silent(trial):
                self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            return self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _silent(self, trial: FrozenTrial) -> bool:
        beat, now = str(trial.user_attrs.get(BEAT)), time.monotonic()
        before, since = self.seen.get(trial.number, (None, now))
        self.seen[trial.number] = beat, since if before == beat else now
        return before == beat and now - since > self.silence

    def _beat(self, identity: int, over: threading.Event) -> None:
        name, count = uuid4().hex[:8], 0
        while not over.is_set():
            with suppress(Exception):  # finished by now, or the database is away: then others may take the trial
                self.storage.set_trial_user_attr(identity, BEAT, f"{name} {count}")
            count += 1
            over.wait(self.silence / 6)


@contextmanager
def _waiting_again(storage: BaseStorage, identity: int) -> Iterator[None]:
    """An error, or Ctrl-C, gives the trial back."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # such as finished, or a storage that is gone: then others find its owner dead
            storage.set_trial_state_values(identity, TrialState.WAITING)
        raise


def this_worker() -> str:
    """Host and process, for people."""
    return f"{gethostname()} {os.getpid()}"
