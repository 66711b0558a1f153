"""Pipeline schedules as data, checked, simulated and compared.

- ``actions``: actions and schedules, the grid that prints them, what waits for what
- ``validate``: refuse what cannot run, with the bad step marked in the grid
- ``builders``, ``layerpipe``: the schedules; ``registry`` names them
- ``simulator``, ``timeline``: when everything runs on a device model, and what follows
- ``compare``: tables over networks and numbers of processors
"""

from layerpipe2.planning.schedules.actions import Action, Schedule
from layerpipe2.planning.schedules.builders import repeat
from layerpipe2.planning.schedules.registry import SCHEDULES, ScheduleInfo, build_schedule
from layerpipe2.planning.schedules.simulator import simulate
from layerpipe2.planning.schedules.timeline import Event, Timeline
from layerpipe2.planning.schedules.validate import ScheduleError, validate

__all__ = [
    "SCHEDULES",
    "Action",
    "Event",
    "Schedule",
    "ScheduleError",
    "ScheduleInfo",
    "Timeline",
    "build_schedule",
    "repeat",
    "simulate",
    "validate",
]
