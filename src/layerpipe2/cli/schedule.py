"""``layerpipe2 schedule``."""

import argparse
from collections.abc import Sequence

from layerpipe2.cli.commands import ScheduleOptions
from layerpipe2.cli.console import fitted, terminal_width, wrapped
from layerpipe2.cli.options import read_options
from layerpipe2.delays import aligned
from layerpipe2.planning import FlopDevice, uniform_costs
from layerpipe2.planning.schedules import SCHEDULES, Timeline, build_schedule, repeat, simulate

_LONG, _COLUMNS = 4, 24
"""Updates that synchronous schedules run for (the others do as many batches), and most columns of a drawing."""
_LEGEND = "F forward, B activation gradient, W weight gradient, BW both; - goes on, . waits"


def run(options: argparse.Namespace) -> None:
    """Simulate one schedule and draw it, or compare all of them.

    Raises:
        UserError: on an unknown schedule, or counts that it cannot take.
    """
    wanted = read_options(ScheduleOptions, options)
    processors, batches, until = wanted.processors, wanted.batches, wanted.until
    times = (wanted.forward, wanted.activation, wanted.weight)
    if options.name is None:
        print(comparison(processors, batches, times))
        return
    line = _simulated(options.name, processors, batches, times)
    unit, width = min(*times, *(event.end - event.start for event in line.events)), terminal_width()
    print(line.gantt(unit, until) if until else fitted(lambda n: line.gantt(unit, n * unit), _COLUMNS, width))
    print(wrapped(f"{_LEGEND}\n\n{summary(line)}", width))


def comparison(processors: int, batches: int, times: Sequence[float]) -> str:
    """One line per schedule, and one on what can't take these counts."""
    rows = [["schedule", "time per batch", "busy", "most delayed (updates)", "batches in flight"]]
    divides = batches % processors == 0
    for name in SCHEDULES:
        if name != "interleaved" or divides:
            line = _simulated(name, processors, batches, times)
            delay, held = max(line.schedule.delays()), max(line.in_flight())
            rows.append([name, f"{line.period:.4g}", f"{100 * line.steady_utilisation:.0f} %", str(delay), str(held)])
    left_out = [] if divides else [f"interleaved is left out: --batches {batches} is no multiple of {processors}"]
    return "\n".join([*aligned(rows), *left_out])


def summary(line: Timeline) -> str:
    """Steady state, delays and stored batches of one run."""
    schedule = line.schedule
    return (
        f"{schedule.name}: a batch every {line.period:.4g}, processors busy {100 * line.steady_utilisation:.0f} % of "
        f"the time in the steady state\ndelays by stage (updates): {' '.join(map(str, schedule.delays()))}\n"
        f"mini-batches in flight by stage: {' '.join(map(str, line.in_flight()))}"
    )


def _simulated(name: str, processors: int, batches: int, times: Sequence[float]) -> Timeline:
    """One stage per processor (interleaved: two, half as long) with the given times of F, B and W."""
    row = SCHEDULES.get(name)
    parts, together = (row.stages_per_processor, row.synchronous) if row else (1, False)
    long = max(_LONG * batches, _LONG * processors)  # a pipeline must be full before its delays can be seen
    schedule = build_schedule(name, parts * processors, processors, batches if together else long)
    schedule = repeat(schedule, _LONG) if together else schedule
    forward, activation, weight = (time / parts for time in times)
    return simulate(schedule, uniform_costs(parts * processors, forward, activation, weight), FlopDevice(1.0))
