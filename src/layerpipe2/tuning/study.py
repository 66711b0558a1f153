"""A study: its trials on a queue that any number of processes take from; what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from layerpipe2.errors import UserError
from layerpipe2.runs.records import Record, keep_record, read_record, writable_folder, write_record
from layerpipe2.tuning.claims import Claims, DatabaseClaims, FolderClaims
from layerpipe2.tuning.settings import StudySettings, quiet
from layerpipe2.tuning.storage import open_storage, open_study, told

_SETTINGS, _RECORD, _STATUS, _ERROR = "settings", "record", "status", "error"
_POLL = (0.05, 2.0)  # shortest and longest time in s between two looks at what others do
OPEN = (TrialState.WAITING, TrialState.RUNNING)


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
    claims: Claims

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials of the budget, in their order, of these states or of all."""
        found = self.optuna_study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if trial.number < self.settings.trials]

    def path(self, number: int) -> Path:
        """Of a trial's record."""
        return self.folder / "trials" / f"{number:05d}.json"

    def do_one(self) -> Record | None:
        """Do the first trial that waits or whose owner has died; None if there is none at present."""
        todo = self.trials(*OPEN)
        for trial in todo[:1] if self.settings.in_order else todo:
            with self.claims.claimed(trial) as mine:
                if mine:
                    return self._do(trial)
        return None

    def _do(self, waiting: FrozenTrial) -> Record | None:
        self.optuna_study.sampler = self.settings.sampler_of(waiting.number)
        objectives = self.settings.objectives
        with quiet():
            self.optuna_study.pruner = self._pruner()
            trial = optuna.Trial(self.optuna_study, waiting._trial_id)
            config = self.settings.ranges.suggest(trial, self.settings.config)
            record, error = self._record(trial, config)
            notes: dict[str, Any] = {_STATUS: record["status"] if record else "refused"}
            notes |= {_ERROR: error} if error else {}
            if self.url is not None and record is not None:
                notes[_RECORD] = json.dumps(read_record(self.path(trial.number)))
            from layerpipe2.tuning.trial import told_as

            with suppress(UpdateFinishedTrialError):  # this process was suspended, and another one did it meanwhile
                for name, note in notes.items():
                    trial.set_user_attr(name, note)
                end = told_as(record, objectives) if record else {"state": TrialState.FAIL}
                self.optuna_study.tell(trial, **end, skip_if_finished=True)
        return record

    def _record(self, trial: optuna.Trial, config: Any) -> tuple[Record | None, str | None]:
        """The record of a trial, trained unless a process has written it and was killed then; or why there is none."""
        from layerpipe2.tuning.trial import train_trial

        path = self.path(trial.number)
        with suppress(UserError):
            if path.is_file() and _same(record := read_record(path), config):
                return record, None
        try:
            record = train_trial(trial, config, self.settings.objectives)
        except UserError as error:
            return None, str(error)
        keep_record(path, record)
        return record, None

    def _pruner(self) -> optuna.pruners.BasePruner:
        from layerpipe2.tuning.settings import PRUNERS

        return PRUNERS[self.settings.pruner](self.settings.config.epochs)

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
        UserError: if a storage is gone, or a record can't be written.
    """
    pause, left = _POLL[0], list(studies)
    while left and (deadline is None or time.time() < deadline):
        with told(f"study {left[0].name}"):
            left = [study for study in left if study.trials(*OPEN)]
            if any(study.do_one() is not None for study in left):
                pause = _POLL[0]
            elif left:
                time.sleep(pause)
                pause = min(2 * pause, _POLL[1])


def open_or_make(settings: StudySettings, folder: Path, url: str | None = None, name: str = "study") -> Study:
    """The study with these settings, made if there is none, with all its trials waiting.

    Raises:
        UserError: if there is one of other settings or other code, or the storage can't be used.
    """
    writable_folder(folder / "trials")
    storage = open_storage(folder, url)
    with told(f"study {name}"):
        found = open_study(storage, name, settings.directions)
        before = found.user_attrs.get(_SETTINGS)
        if before is not None:
            _check(settings, before, name)
        if before is None or before["trials"] < settings.trials:
            found.set_user_attr(_SETTINGS, settings.to_dict())
        with quiet():
            # Several processes may add some at once: those behind the budget are never done.
            for _ in range(settings.trials - len(found.get_trials(deepcopy=False))):
                found.enqueue_trial({})
    return _study(found, name, folder, url)


def open_existing(folder: Path, url: str | None = None, name: str = "study") -> Study:
    """The study in a folder or a database.

    Raises:
        UserError: if there is none.
    """
    if url is None and not (folder / "journal.log").is_file():
        raise UserError(f"there is no study in {folder}; start one with `layerpipe2 tune`, or give its folder (--out)")
    storage = open_storage(folder, url)
    with told(f"study {name}"):
        return _study(open_study(storage, name, None), name, folder, url)


def _study(found: optuna.Study, name: str, folder: Path, url: str | None) -> Study:
    content = found.user_attrs.get(_SETTINGS)
    if not isinstance(content, Mapping):
        raise UserError(f"study {name} isn't one of `layerpipe2 tune`; give another name")
    claims: Claims = FolderClaims(found._storage, folder / "trials") if url is None else DatabaseClaims(found._storage)
    return Study(name, folder, url, StudySettings(**_typed(content)), found, claims)


def _typed(content: Mapping[str, Any]) -> dict[str, Any]:
    from layerpipe2.runs.config import RunConfig

    return {**content, "config": RunConfig(**content["config"])}


def _check(settings: StudySettings, before: Mapping[str, Any], name: str) -> None:
    try:
        its = StudySettings(**_typed(before))
    except (UserError, KeyError, TypeError):
        raise UserError(f"study {name} was made by another version; delete it or give another folder or name") from None
    different = settings.differs(its)
    if different == "code":
        commit = (its.commit or "unknown")[:12]
        raise UserError(f"study {name} was made with other code (commit {commit}); give another folder or name")
    if different is not None:
        raise UserError(f"study {name} has another {different}; go on with its own, or give another folder or name")


def _same(record: Record, config: Any) -> bool:
    """Whether a record is of these settings; that of sequential training has its own partition."""
    from layerpipe2.runs.plan import plan_from

    return bool(record["config"] == plan_from(config).config.to_dict())


def count(trials: list[FrozenTrial]) -> Counter[str]:
    """How many trials have completed, were pruned, have diverged, were refused, are running and wait."""
    words = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}
    return Counter(words.get(trial.state) or trial.user_attrs.get(_STATUS, "failed") for trial in trials)
