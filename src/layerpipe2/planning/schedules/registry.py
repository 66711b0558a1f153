"""Schedules by name."""

from collections.abc import Callable
from dataclasses import dataclass

from layerpipe2.errors import look_up
from layerpipe2.planning.schedules.actions import Schedule
from layerpipe2.planning.schedules.builders import gpipe, interleaved, one_f_one_b, pipedream, zb_h1
from layerpipe2.planning.schedules.layerpipe import layerpipe, layerpipe2


@dataclass(frozen=True)
class ScheduleInfo:
    """A pipeline schedule by name.

    Attributes:
        name, label: in options and tables, and for readers.
        build: (stages, processors, batches) -> schedule.
        synchronous: whether it makes one update per call; the others update after every mini-batch.
        stages_per_processor: how many consecutive stages a processor gets.
    """

    name: str
    label: str
    build: Callable[[int, int, int], Schedule]
    synchronous: bool = False
    stages_per_processor: int = 1


_ROWS = (
    ScheduleInfo("gpipe", "GPipe", gpipe, synchronous=True),
    ScheduleInfo("1f1b", "1F1B", one_f_one_b, synchronous=True),
    ScheduleInfo("interleaved", "interleaved 1F1B", interleaved, synchronous=True, stages_per_processor=2),
    ScheduleInfo("zb-h1", "zero-bubble H1", zb_h1, synchronous=True),
    ScheduleInfo("pipedream", "PipeDream", pipedream),
    ScheduleInfo("layerpipe", "LayerPipe (our reading)", layerpipe),
    ScheduleInfo("layerpipe2", "LayerPipe2", layerpipe2),
)

SCHEDULES: dict[str, ScheduleInfo] = {row.name: row for row in _ROWS}
"""Name -> pipeline schedule."""


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
    return look_up(SCHEDULES, name, "schedule").build(stages, processors, batches)
