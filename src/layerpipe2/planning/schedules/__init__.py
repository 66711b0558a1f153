"""Pipeline schedules as data, checked, simulated and compared.

- ``actions``: actions and schedules, the grid that prints them, what waits for what
- ``validate``: refuse what cannot run, with the bad step marked in the grid
- ``builders``, ``layerpipe``: the schedules; ``registry`` names them
- ``simulator``, ``timeline``: when everything runs on a device model, and what follows
- ``compare``: tables over networks and numbers of processors
"""

from layerpipe2.planning.schedules.builders import repeat
from layerpipe2.planning.schedules.registry import SCHEDULES, build_schedule
from layerpipe2.planning.schedules.simulator import simulate
from layerpipe2.planning.schedules.timeline import Timeline

__all__ = ["SCHEDULES", "Timeline", "build_schedule", "repeat", "simulate"]
