"""A study: its trials on a queue that any number of processes take from; what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import Record, keep_record, read_record, writable_folder, write_record
from layerpipe2.lab.tuning import check_there
from layerpipe2.lab.tuning.settings import PRUNERS, StudySettings, quiet
from layerpipe2.lab.tuning.storage import open_storage, open_study, told
from layerpipe2.lab.tuning.trial_locks import WORKER, TrialLocks, by_database, by_leases

_SETTINGS, _RECORD = "settings", "record"
STATUS, SECONDS, ERROR = "status", "seconds", "error"
"""Attributes of a finished trial: that of its record, or ``refused``; how long it took; why it was refused."""
_POLL = (0.05, 2.0)  # shortest and longest time in s between two looks at what others do
OPEN = (TrialState.WAITING, TrialState.RUNNING)


class OtherStudy(UserError):
    """There is a study of other settings or other code in the place of the one that was asked for."""


@dataclass(frozen=True)
class Study:
    """A study that this process has opened.

    Attributes:
        folder: of this process's records, and of the journal if there is no ``url``.
        url: database of a study on several machines.
    """

    name: str
    folder: Path
    url: str | None
    settings: StudySettings
    optuna_study: optuna.Study
    locks: TrialLocks

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials of the budget, in their order, of these states or of all."""
        found = self.optuna_study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if trial.number < self.settings.trials]

    def path(self, number: int) -> Path:
        """Of a trial's record."""
        return self.folder / "trials" / f"{number:05d}.json"

    def do_one(self) -> bool:
        """Do the first trial that waits or whose owner has died; False if there is none at present."""
        todo = self.trials(*OPEN)
        for trial in todo[:1] if self.settings.in_order else todo:
            # Finished: this process was suspended, or cut off, and another one has done the trial meanwhile.
            with suppress(UpdateFinishedTrialError), self.locks.holding(trial) as mine:
                if mine:
                    self._do(trial)
                    return True
        return False

    def _do(self, found: FrozenTrial) -> None:
        from layerpipe2.lab.tuning.trial import tell_arguments

        since = time.monotonic()
        self.optuna_study.sampler = self.settings.sampler_of(found.number)
        self.optuna_study.pruner = PRUNERS[self.settings.pruner](self.settings.config.epochs)
        with quiet():
            trial = optuna.Trial(self.optuna_study, found._trial_id)
            record, error = self._record(trial, begun=bool(found.params))
            notes: dict[str, Any] = {STATUS: record["status"] if record else "refused"}
            notes[SECONDS] = time.monotonic() - since
            if record is None:
                notes[ERROR] = error
            elif self.url is not None and self.settings.module is None:
                notes[_RECORD] = json.dumps(read_record(self.path(trial.number)))
            for name, note in notes.items():
                trial.set_user_attr(name, note)
            end = {"state": TrialState.FAIL}
            if record is not None:
                end = tell_arguments(record, self.settings.objectives, self.settings.sampler)
            self.optuna_study.tell(trial, **end, skip_if_finished=True)

    def _record(self, trial: optuna.Trial, begun: bool) -> tuple[Record | None, str]:
        """The record of a trial, or why there is none; one that is there already if the storage was gone after it."""
        from layerpipe2.lab.tuning.trial import train_own_trial, train_trial

        path = self.path(trial.number)
        try:
            config = self.settings.ranges.suggest(trial, self.settings.config)
            if self.settings.module is not None:
                return train_own_trial(trial, config, self.settings), ""
            with suppress(UserError):
                if begun and path.is_file() and _same(record := read_record(path), config):
                    return record, ""
            record = train_trial(trial, config, self.settings.objectives)
        except UserError as error:  # settings that don't go together
            return None, str(error)
        keep_record(path, record)
        return record, ""

    def fetch_records(self) -> int:
        """Write the records that other machines have put into the database to this folder; how many were new."""
        new = 0
        for trial in self.trials():
            path = self.path(trial.number)
            if _RECORD in trial.user_attrs and not path.is_file():
                write_record(path, json.loads(trial.user_attrs[_RECORD]))
                new += 1
        return new


def work(studies: list[Study], deadline: float | None = None) -> None:
    """Do trials until none of the budgets is left, or ``deadline`` (``time.time()``) has passed.

    Raises:
        UserError: if a study was made with other code, this machine lacks its data or device, a storage is gone, or a
            record can't be written.
    """
    for study in studies:
        _check_code(study.settings, study.name)
    with told(f"study {studies[0].name}"):
        left = [study for study in studies if study.trials(*OPEN)]
    if left:
        from layerpipe2.lab.runs.worker import check_runs

        check_runs(study.settings.config for study in left if study.settings.module is None)
    pause = _POLL[0]
    while left and (deadline is None or time.time() < deadline):
        with told(f"study {left[0].name}"):
            left = [study for study in left if study.trials(*OPEN)]
            if any(study.do_one() for study in left):
                pause = _POLL[0]
            elif left:
                time.sleep(pause)
                pause = min(2 * pause, _POLL[1])


def open_or_make(settings: StudySettings, folder: Path, url: str | None = None, name: str = "study") -> Study:
    """The study with these settings, made if there is none, with all its trials waiting.

    Raises:
        UserError: if there is one of other settings or other code, or the storage can't be used.
    """
    writable_folder(folder)
    storage = open_storage(folder, url)
    with told(f"study {name}"):
        found = open_study(storage, name, settings.directions, settings.objectives)
        before = found.user_attrs.get(_SETTINGS)
        if before is not None:
            its = _settings(before, name)
            _check(settings, its, name)
            settings = settings.model_copy(update={"at": its.at})
        if before is None or before["trials"] < settings.trials:
            found.set_user_attr(_SETTINGS, settings.to_dict())
        with quiet():
            # Several processes may add some at once: those behind the budget are never done.
            for _ in range(settings.trials - len(found.get_trials(deepcopy=False))):
                found.enqueue_trial({})
        return _study(found, name, folder, url, storage)


def open_existing(folder: Path, url: str | None = None, name: str = "study") -> Study:
    """The study in a folder or a database.

    Raises:
        UserError: if there is none.
    """
    if url is None:
        check_there(folder)
    storage = open_storage(folder, url)
    with told(f"study {name}"):
        return _study(open_study(storage, name, None), name, folder, url, storage)


def _study(found: optuna.Study, name: str, folder: Path, url: str | None, storage: Any) -> Study:
    content = found.user_attrs.get(_SETTINGS)
    if not isinstance(content, Mapping):
        raise UserError(f"study {name} isn't one of `layerpipe2 tune`; give another name")
    lock = by_leases(folder / "trials") if url is None else by_database(storage.engine)
    return Study(name, folder, url, _settings(content, name), found, TrialLocks(found._storage, lock))


def _settings(content: Mapping[str, Any], name: str) -> StudySettings:
    try:
        return StudySettings(**{**content, "config": RunConfig(**content["config"])})
    except (UserError, KeyError, TypeError):
        raise OtherStudy(
            f"study {name} was made by another version; delete it or give another folder or name"
        ) from None


def _check(settings: StudySettings, its: StudySettings, name: str) -> None:
    _check_code(its, name)
    different = settings.differs(its)
    if different is not None:
        raise OtherStudy(
            f"study {name} has another value of {different}; go on with its own, or give another folder or name"
        )
    if settings.trials < its.trials:
        raise OtherStudy(f"study {name} has {its.trials} trials, not {settings.trials}; give at least as many")


def _check_code(settings: StudySettings, name: str) -> None:
    from layerpipe2.cli.own import source_hash
    from layerpipe2.lab.provenance import TUNING
    from layerpipe2.versions import code_hash

    if settings.code != code_hash(TUNING) + source_hash(settings.module):
        commit = (settings.commit or "unknown")[:12]
        raise OtherStudy(f"study {name} was made with other code (commit {commit}); give another folder or name")


def _same(record: Record, config: Any) -> bool:
    """Whether a record is of these settings; that of sequential training has its own partition."""
    from layerpipe2.lab.runs.plan import plan_from

    return bool(record["config"] == plan_from(config).config.to_dict())


def count(trials: list[FrozenTrial]) -> Counter[str]:
    """How many trials have completed, were pruned, have diverged, were refused, are running and wait."""
    return Counter(
        trial.user_attrs.get(STATUS, "failed") if trial.state.is_finished() else "running" if runs(trial) else "waiting"
        for trial in trials
    )


def runs(trial: FrozenTrial) -> bool:
    """Whether a process does a trial, as far as can be seen from here: one that was killed leaves it behind."""
    host, process, _ = trial.user_attrs.get(WORKER, ("", 0, 0.0))
    gone = host == gethostname() and not Path(f"/proc/{process}").exists()
    return trial.state == TrialState.RUNNING and not gone
