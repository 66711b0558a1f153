"""The sections of an experiment's file, as checked values."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from layerpipe2.errors import LARGEST, UserError
from layerpipe2.lab.data import DATASETS
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Checked, Several, one_of
from layerpipe2.lab.tuning.settings import GRID, PRUNERS, SAMPLERS, check_grid
from layerpipe2.lab.tuning.space import Space
from layerpipe2.strategies import make_strategy

SWEPT = ("dataset", "network", "group_size", "strategy", "seed", "stash_epochs", "max_steps")
"""RunSettings that no section gives: the cells and seeds of an experiment do; the last two are for single runs."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Network = Annotated[str, *one_of(NETWORKS)]
Dataset = Annotated[str, *one_of(DATASETS)]


Strategy = Annotated[str, AfterValidator(lambda name: (make_strategy(name), name)[1])]
_SETTINGS: dict[str, Any] = {
    name: (field.annotation, field) for name, field in RunConfig.model_fields.items() if name not in SWEPT
}


class RunSettings(create_model("Fields", __base__=Checked, **_SETTINGS)):  # type: ignore[misc]
    """Some of the settings of runs; the others have their defaults."""

    @property
    def given(self) -> dict[str, Any]:
        """Those that the file gives."""
        return {name: getattr(self, name) for name in self.model_fields_set if name in _SETTINGS}


class Tuning(Checked):
    """Studies that choose settings by validation data, at the end of runs with a seed of their own.

    Each has the same ``space`` and number of ``trials`` (:mod:`layerpipe2.lab.tuning`). There is one for every
    strategy, at the largest number of stages, whose choice holds for all.

    Attributes:
        epochs: of these runs, if not those of the final ones.
        seeds: of the runs; several with a grid alone, whose points are compared by their means.
        trials: runs with one seed; of a grid all its points.
        moves: how often the range is moved, and the study done again, while the best value lies at an end of it.
    """

    epochs: Count | None = None
    seeds: Several[Seed]
    space: Annotated[dict[str, str], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1, le=1000)]
    sampler: Annotated[str, *one_of(SAMPLERS)] = "tpe"
    pruner: Annotated[str, *one_of(PRUNERS)] = "median"
    moves: Annotated[int, Field(ge=0, le=10)] = 0

    @model_validator(mode="after")
    def _fit(self) -> Self:
        space = Space.of(self.space, RunConfig())
        if self.sampler == GRID:
            check_grid(space, self.trials)
        elif len(self.seeds) > 1:
            what = f"seeds has {len(self.seeds)}, but only a grid has the same points with each"
            raise UserError(f"{what}; give one seed, or sampler: {GRID}")
        return self
