"""Schedules by name."""

from __future__ import annotations

from collections.abc import Callable

from layerpipe2.errors import UserError
from layerpipe2.planning.schedules.actions import Schedule
from layerpipe2.planning.schedules.builders import gpipe, interleaved, one_f_one_b, pipedream, zb_h1
from layerpipe2.planning.schedules.layerpipe import layerpipe
from layerpipe2.planning.schedules.periodic import layerpipe2

Builder = Callable[[int, int, int], Schedule]
"""(stages, processors, batches) -> schedule."""

SCHEDULES: dict[str, Builder] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zb-h1": zb_h1,
    "pipedream": pipedream,
    "layerpipe": layerpipe,
    "layerpipe2": layerpipe2,
}
"""Name -> builder. The first four synchronise (one update per call), the others update after every mini-batch."""


def build_schedule(name: str, stages: int, processors: int, batches: int) -> Schedule:
    """Build a schedule by its name.

    Args:
        name: a key of :data:`SCHEDULES`.
        stages: number of stages (layers, for ``layerpipe``).
        processors: number of processors.
        batches: number of (micro-)batches.

    Raises:
        UserError: on an unknown name, or counts that the schedule cannot take.
    """
    if name not in SCHEDULES:
        raise UserError(f"unknown schedule '{name}'; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](stages, processors, batches)
