"""What a study is: the runs, the space, the number of trials, and how values are chosen and bad trials stopped."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Self

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, PartialFixedSampler, RandomSampler, TPESampler
from pydantic import Field, model_validator

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.objectives import OBJECTIVES, Direction
from layerpipe2.lab.own import SETTINGS as OWN_SETTINGS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Checked, Several, one_of
from layerpipe2.lab.tuning import MOST_TRIALS
from layerpipe2.lab.tuning.space import Space


def in_words(values: list[float], objectives: tuple[str, ...]) -> str:
    """Values of objectives, as in ``accuracy 93.20%, copies 1``."""
    return ", ".join(f"{name} {format(v, OBJECTIVES[name].short)}" for name, v in zip(objectives, values, strict=True))


SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, start: TPESampler(seed=seed, n_startup_trials=start, constant_liar=True),
    "gp": lambda seed, start: GPSampler(seed=seed, n_startup_trials=start, deterministic_objective=False),
    "random": lambda seed, start: RandomSampler(seed=seed),
    "grid": lambda seed, start: RandomSampler(seed=seed),
    "listed": lambda seed, start: RandomSampler(seed=seed),
}
"""Name -> sampler from a seed and the number of trials before it learns; every trial of a grid has its values given."""

GRID = "grid"
"""The sampler that does each combination of choices once, in their order: Optuna's own grid takes none from a queue."""
LISTED = "listed"
"""The sampler whose n-th trial has the n-th choice of every setting."""
POINTWISE = (GRID, LISTED)

PRUNERS: Mapping[str, Callable[[int], BasePruner]] = {
    "median": lambda epochs: MedianPruner(n_startup_trials=3, n_warmup_steps=max(1, epochs // 4)),
    "hyperband": lambda epochs: HyperbandPruner(min_resource=1, max_resource=epochs),
    "none": lambda epochs: NopPruner(),
}
"""Name -> pruner of runs of so many epochs."""


class StudySettings(Checked):
    """A study as a value; every process that takes part reads it from the storage.

    Attributes:
        space: setting -> range, see :mod:`layerpipe2.lab.tuning.space`.
        config: the settings of all trials that aren't tuned.
        in_order: whether each trial waits for the one before, so that the study doesn't depend on who was faster.
        module: a function that gives network, data and loss in place of those of ``config``.
        at: where its network is cut, as one process has measured it for all.
        code: hash of the code that trains, the function's among it.
    """

    config: RunConfig
    space: dict[str, str]
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)]
    objectives: Several[Annotated[str, *one_of(OBJECTIVES)]] = ("accuracy",)
    sampler: Annotated[str, *one_of(SAMPLERS)] = "tpe"
    pruner: Annotated[str, *one_of(PRUNERS)] = "median"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    in_order: bool = False
    module: str | None = None
    at: Annotated[tuple[str, ...], Field(strict=False)] = ()
    code: str = ""
    commit: str | None = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        object.__setattr__(self, "space", Space.of(self.space, self.config).texts)
        other = next((name for name in self.space if self.module is not None and name not in OWN_SETTINGS), None)
        if other is not None:
            raise UserError(f"space has {other}, which is for the study's networks; your own has no such setting")
        if self.sampler in POINTWISE:
            check_grid(self.ranges, self.trials, self.sampler)
        if len(self.objectives) > 1 and self.pruner != "none":
            raise UserError(
                f"pruner is {self.pruner}, but there are {len(self.objectives)} objectives, which don't say which of "
                "two unfinished trials is worse; give the pruner 'none'"
            )
        return self

    @property
    def ranges(self) -> Space:
        """The space, read."""
        return Space.of(self.space, self.config)

    @property
    def first(self) -> int:
        """How many trials are spread over the space before the sampler learns from what came out; random: none."""
        return 0 if self.sampler in ("random", *POINTWISE) else min(10, max(3, self.trials // 3))

    @property
    def directions(self) -> list[Direction]:
        """Of the objectives."""
        return [OBJECTIVES[name].direction for name in self.objectives]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for the storage."""
        return self.model_dump(mode="json")

    def differs(self, other: StudySettings) -> str | None:
        """Which setting of another study is not this one's; a budget may grow, and a commit needn't change the code."""
        own, its = self.to_dict(), other.to_dict()
        for name in own.keys() - {"config", "trials", "commit", "at"}:
            if own[name] != its[name]:
                return name
        return next((name for name, value in own["config"].items() if its["config"].get(name) != value), None)

    def sampler_of(self, number: int) -> BaseSampler:
        """The sampler of one trial: its values or its seed follow from the trial's number, whoever does it."""
        points = self.ranges.points(listed=self.sampler == LISTED) if self.sampler in POINTWISE else None
        given = points[number] if points else self.ranges.spread(number) if number < self.first else None
        digest = hashlib.sha256(f"{self.seed} {number}".encode()).digest()
        with quiet():
            if given is not None:
                return PartialFixedSampler(given, RandomSampler(seed=number))
            return SAMPLERS[self.sampler](int.from_bytes(digest[:4], "big"), self.first)


def check_grid(space: Space, trials: int, sampler: str = GRID) -> None:
    """Refuse a grid, or a list of trials, that isn't one, or that the budget doesn't fit.

    Raises:
        UserError: saying so.
    """
    points = space.points(listed=sampler == LISTED)
    if points is None:
        raise UserError("a grid has a range in its space; give choices without conditions, as in lr=choice:0.01,0.02")
    if sampler == LISTED:
        for one in space.ranges:
            if len(one.choices) != trials:
                raise UserError(f"trials is {trials}, but {one.name} lists {len(one.choices)} choices; give {trials}")
    if len(points) != trials:
        raise UserError(f"trials is {trials}, but the grid has {len(points)} points; give {len(points)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's notes on parts that may change, which its bounds in ``pyproject.toml`` take care of."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # A trial that is done again, after a kill, reports the values of its first epochs again.
        warnings.filterwarnings("ignore", message="The reported value is ignored")
        # A Gaussian process takes the infinite values of diverged trials for the worst finite ones.
        warnings.filterwarnings("ignore", message="Clip non-finite values")
        yield
