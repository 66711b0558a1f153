"""What trials are judged by, and which of them are the best: for the tuner, and for those who show its trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from layerpipe2.errors import look_up

Direction = Literal["maximize", "minimize"]
T = TypeVar("T")


class Objective(NamedTuple):
    """Something that trials are judged by.

    Attributes:
        direction: ``maximize`` or ``minimize``.
        text: what it is, with its unit.
        short: a format for one value.
    """

    direction: Direction
    text: str
    short: str = ".4g"

    @property
    def worst(self) -> float:
        """Infinity, of the sign that no trial wants."""
        return -math.inf if self.direction == "maximize" else math.inf


OBJECTIVES = {
    "accuracy": Objective("maximize", "validation accuracy after the last epoch, share", ".2%"),
    "loss": Objective("minimize", "validation loss after the last epoch, nats", ".4f"),
    "copies": Objective("minimize", "modelled weight history, multiples of the network's size", ".3g"),
    "time": Objective("minimize", "modelled time of a mini-batch, share of one processor's", ".3g"),
}
"""The last two are models of hardware with one processor per stage, not measured."""


def judged(report: Mapping[str, Any]) -> str:
    """The objective that verdicts and choices of an experiment are about, by the demands of its ``report``."""
    return "accuracy" if report.get("equivalence_margin_nats") is None else "loss"


def at_the_end(record: Mapping[str, Any], objective: str) -> float:
    """The validation ``accuracy`` or ``loss`` of a completed run, after its last epoch.

    Raises:
        UserError: if it has none, as a training of one's own whose targets are no classes has no accuracy.
    """
    return float(look_up(record["epochs"][-1], f"val_{objective}", "metric"))


def best(found: Iterable[T], objectives: Sequence[str], values: Callable[[T], Sequence[float] | None]) -> list[T]:
    """The trial with the best value, of equals the first; or, of several objectives, the Pareto front.

    Args:
        found: trials, in their order.
        objectives: names in :data:`OBJECTIVES`.
        values: of a trial, one per objective; None of one that isn't completed, which is never the best.
    """
    signs = [-1 if OBJECTIVES[name].direction == "maximize" else 1 for name in objectives]
    known = [(trial, reached) for trial in found if (reached := values(trial)) is not None]
    points = [tuple(sign * value for sign, value in zip(signs, reached, strict=True)) for _, reached in known]
    if len(signs) == 1:
        return [known[points.index(min(points))][0]] if points else []
    return [trial for (trial, _), point in zip(known, points, strict=True) if not _dominated(point, points)]


def _dominated(point: tuple[float, ...], points: Sequence[tuple[float, ...]]) -> bool:
    return any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
