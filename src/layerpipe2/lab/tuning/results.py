"""What a study has found: the best trial or the Pareto front, what runs where, and how long it will still take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from layerpipe2.lab.judging.objectives import best
from layerpipe2.lab.tuning.study import ERROR, OPEN, SECONDS, Study, count, runs
from layerpipe2.lab.tuning.trial_locks import WORKER


class Status(NamedTuple):
    """A study at one moment.

    Attributes:
        total, finished: of trials.
        counts: state in words -> number of trials.
        best: number, values and chosen settings of the best trial, or of all trials of the Pareto front.
        at_an_end: setting -> end of its range that the best value lies at.
        running: number of each running trial, who does it, and its seconds so far.
        seconds_left: until the budget is used up; None before a first trial has finished.
        reason: why a trial was refused, if any was.
    """

    name: str
    objectives: tuple[str, ...]
    total: int
    finished: int
    counts: dict[str, int]
    best: list[dict[str, Any]]
    at_an_end: dict[str, str]
    running: list[dict[str, Any]]
    seconds_left: float | None
    reason: str | None


def status(study: Study) -> Status:
    """Read it off the storage, once."""
    trials = study.trials()
    chosen = best_trials(study, trials)
    running = [trial for trial in trials if runs(trial)]
    settings, left = study.settings, sum(trial.state in OPEN for trial in trials)
    return Status(
        name=study.name,
        objectives=settings.objectives,
        total=settings.trials,
        finished=len(trials) - left,
        counts=dict(count(trials)),
        best=[{"trial": t.number, "values": t.values, "settings": t.params} for t in chosen],
        at_an_end=settings.ranges.at_an_end(chosen[0].params) if len(chosen) == 1 else {},
        running=[{"trial": t.number, **_who(t)} for t in running],
        seconds_left=_seconds_left(trials, left, [_who(trial)["seconds"] for trial in running]),
        reason=next((trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs), None),
    )


def best_trials(study: Study, trials: Sequence[FrozenTrial] | None = None) -> list[FrozenTrial]:
    """The completed trial with the best value, of equals the first; or, of several objectives, the Pareto front."""
    found = study.trials() if trials is None else trials
    return best(found, study.settings.objectives, values_of)


def values_of(trial: FrozenTrial) -> list[float] | None:
    """What its objectives were; None of a trial that isn't completed, or has diverged."""
    done = trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))
    return trial.values if done else None


def _seconds_left(trials: Sequence[FrozenTrial], left: int, running: Sequence[float]) -> float | None:
    """As many processes as are running share what is left, if each trial takes what the median one took."""
    durations = [trial.user_attrs[SECONDS] for trial in trials if SECONDS in trial.user_attrs]
    if not durations:
        return None
    typical = median(durations)
    rest = [max(0.0, typical - seconds) for seconds in running]
    return float(((left - len(running)) * typical + sum(rest)) / max(1, len(running)))


def _who(trial: FrozenTrial) -> dict[str, Any]:
    host, process, since = trial.user_attrs.get(WORKER, ("", 0, time.time()))
    return {"worker": f"{host} {process}", "seconds": max(0.0, time.time() - since)}
