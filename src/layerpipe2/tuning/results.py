"""What a study has found: the best trial or the Pareto front, what runs where, and how long it will still take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from layerpipe2.tuning.claims import WORKER
from layerpipe2.tuning.settings import OBJECTIVES
from layerpipe2.tuning.study import OPEN, Study, count


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
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    now, settings = datetime.now(), study.settings
    open_trials = [trial for trial in trials if trial.state in OPEN]
    return Status(
        name=study.name,
        objectives=settings.objectives,
        total=settings.trials,
        finished=len(trials) - len(open_trials),
        counts=dict(count(trials)),
        best=[{"trial": t.number, "values": t.values, "settings": t.params} for t in chosen],
        at_an_end=settings.ranges.at_an_end(chosen[0].params) if len(chosen) == 1 else {},
        running=[
            {"trial": t.number, "worker": t.user_attrs.get(WORKER, ""), "seconds": _seconds(t, now)} for t in running
        ],
        seconds_left=_seconds_left(trials, max(1, len(running)), now),
        reason=next((trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs), None),
    )


def best_trials(study: Study, trials: Sequence[FrozenTrial] | None = None) -> list[FrozenTrial]:
    """The completed trial with the best value, of equals the first; or, of several objectives, the Pareto front."""
    found = study.trials() if trials is None else trials
    completed = [trial for trial in found if trial.state == TrialState.COMPLETE]
    signs = [-1 if OBJECTIVES[name].direction == "maximize" else 1 for name in study.settings.objectives]
    points = [tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)) for trial in completed]
    if len(signs) == 1:
        return [completed[points.index(min(points))]] if points else []
    return [trial for trial, point in zip(completed, points, strict=True) if not _dominated(point, points)]


def _dominated(point: tuple[float, ...], points: Sequence[tuple[float, ...]]) -> bool:
    return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)


def _seconds_left(trials: Sequence[FrozenTrial], workers: int, now: datetime) -> float | None:
    durations = [t.duration.total_seconds() for t in trials if t.state.is_finished() and t.duration is not None]
    if not durations:
        return None
    waiting = sum(trial.state == TrialState.WAITING for trial in trials)
    rest = [max(0.0, median(durations) - _seconds(t, now)) for t in trials if t.state == TrialState.RUNNING]
    return (waiting * median(durations) + sum(rest)) / workers


def _seconds(trial: FrozenTrial, now: datetime) -> float:
    return (now - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
