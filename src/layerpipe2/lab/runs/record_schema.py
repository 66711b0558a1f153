"""What a run's record must look like, checked whenever one is read."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from layerpipe2.errors import UserError, plain_name
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.correct import unpacked
from layerpipe2.lab.runs.validation import Checked, Real, real

SCHEMA = 2
"""Version of the layout; see :func:`layerpipe2.lab.runs.train.train_run`."""


def _checked_time(text: str) -> str:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or time.year < 1971:
        raise UserError(f"{text[:100]!r} is no time; give one like 2026-01-01T00:00:00+00:00")
    return text


TIMES = ("commit", "dirty", "started", "wall_time_s", "train_time_s")
"""What two runs that give the same differ in; it may lie in a file of its own."""
Name = Annotated[str, AfterValidator(partial(plain_name, what="name"))]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Fraction = Annotated[float, *real(ge=0, le=1)]
Seconds = Annotated[float, *real(ge=0, le=1e10)]


class _Config(RunConfig):
    """The settings; all of them are there, but for those that are none by default."""

    dataset: Name
    network: Name
    strategy: Name

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name, field in RunConfig.model_fields.items():
            if field.default is not None and name not in self.model_fields_set:
                raise UserError(f"'{name}' is missing")
        return self


class _Network(Checked):
    units: Count
    parameters_per_stage: Annotated[list[Count], Field(min_length=1)]


class _Epoch(Checked):
    epoch: Count
    lr: Annotated[float, *real(ge=0)]
    train_loss: Real | None
    train_accuracy: Fraction | None
    val_loss: Real | None
    val_accuracy: Fraction | None


class _Test(Checked):
    loss: Real | None
    accuracy: Fraction | None
    images: Count
    correct: str | None = None  # see layerpipe2.lab.runs.correct; older records have none

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if self.correct is not None:
            unpacked(self.correct, self.images)
        return self


class _Reconstruction(Checked):
    stage: Count
    delay: Count
    strategy: Name
    relative_error: Real | None
    n: Count


class RunTimes(Checked):
    """What a record's file doesn't hold if times lie apart; ``record`` is the fingerprint of what it does hold."""

    record: str | None = None
    commit: str | None
    dirty: bool | None
    started: Annotated[str, AfterValidator(_checked_time)]
    wall_time_s: Seconds
    train_time_s: Seconds


class _Provenance(Checked):
    versions: dict[str, str | None]
    device: str
    threads: Count
    code: Name | None = None  # hash of the code that trains; older records have none
    commit: str | None = None
    dirty: bool | None = None
    started: Annotated[str, AfterValidator(_checked_time)] | None = None
    wall_time_s: Seconds | None = None
    train_time_s: Seconds | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in TIMES if name in self.model_fields_set]
        if given and len(given) < len(TIMES):
            raise UserError(f"provenance has {given[0]}, but not all of {', '.join(TIMES)}")
        return self


class _Processes(Checked):
    number: Count
    memory: list[dict[str, Count]]


class _Divergence(Checked):
    place: str
    epoch: Count
    step: Count | None
    stage: Count | None
    quantity: Literal["mini-batch", "weights", "outputs", "loss"]


class RunRecord(Checked):
    """A record without its checksum: complete, of the right types, and completed only if every number is there."""

    schema_: Literal[2] = Field(alias="schema")
    config: _Config
    network: _Network
    convention: Name
    delays: Annotated[list[Count], Field(min_length=1)]
    history_copies: Annotated[float, *real(ge=0)]
    status: Literal["completed", "diverged", "pruned"]
    diverged_epoch: Count | None
    divergence: _Divergence | None = None  # older records of diverged runs don't know it
    epochs: Annotated[list[_Epoch], Field(min_length=1)]
    test: _Test | None  # none if the test part was not evaluated, as in tuning
    reconstruction: list[_Reconstruction]
    provenance: _Provenance
    processes: _Processes | None = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.delays) != len(self.network.parameters_per_stage):
            raise UserError("delays and network.parameters_per_stage have different lengths")
        if [row.epoch for row in self.epochs] != list(range(len(self.epochs))):
            raise UserError("epochs aren't counted from 0")
        missing, diverged = next(self._missing(), None), self.status == "diverged"
        if missing and not diverged:
            raise UserError(f"status is {self.status!r}, but {missing} is null")
        if diverged != (self.diverged_epoch is not None) or (self.diverged_epoch or 0) >= len(self.epochs):
            raise UserError(f"status is {self.status!r}, but diverged_epoch is {self.diverged_epoch}")
        if self.divergence is not None and not diverged:
            raise UserError("status is 'completed', but there is a divergence")
        if self.status == "pruned" and self.test is not None:
            raise UserError("status is 'pruned', but there are test results")
        if diverged and self.test is not None and (self.test.loss, self.test.accuracy) != (None, None):
            raise UserError("status is 'diverged', but there are test results")
        return self

    def _missing(self) -> Iterator[str]:
        """Places without a number."""
        for row in self.epochs:
            yield from (f"epochs.{row.epoch}.{name}" for name, value in row if value is None)
        yield from (f"test.{name}" for name, value in self.test or () if value is None and name != "correct")
        for number, rule in enumerate(self.reconstruction):
            if rule.relative_error is None and rule.n:
                yield f"reconstruction.{number}.relative_error"
