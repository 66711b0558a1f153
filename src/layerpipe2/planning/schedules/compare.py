"""Schedules against each other: every network, number of processors and schedule, on one device model.

All schedules run the same (micro-)batches. The stages of all but LayerPipe are the best contiguous cut of the units
for the slowest stage or link; interleaved has two stages per processor. Synchronous schedules update every 4 P
micro-batches and lose the time of filling and draining each time; the others update after each batch. PipeDream runs
without its data-parallel replicas of a stage. Speed is batches per second in the steady state, relative to PipeDream.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from layerpipe2.delays import Delays
from layerpipe2.errors import integer, look_up
from layerpipe2.planning.balance import chain_cuts, merge
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import DEVICE, Device
from layerpipe2.planning.schedules.builders import repeat
from layerpipe2.planning.schedules.layerpipe import layerpipe
from layerpipe2.planning.schedules.registry import SCHEDULES, build_schedule
from layerpipe2.planning.schedules.simulator import simulate
from layerpipe2.planning.schedules.timeline import Timeline


def compare(
    networks: Mapping[str, Costs],
    processors: Iterable[int] = range(3, 10),
    schedules: Sequence[str] = tuple(SCHEDULES),
    device: Device = DEVICE,
) -> list[dict[str, object]]:
    """Make the table; a schedule is left out where it cannot use the network (interleaved with less than 2 P units).

    Args:
        networks: name -> costs with a stage per unit.
        processors, schedules, device: what they are compared on.

    Returns:
        Rows of network (its name); processors, as offered; schedule; used, the processors in use, less where the
        schedule has not enough units; period, time in s per batch in the steady state; speed over PipeDream with as
        many processors; utilisation, mean share of time in which the offered processors compute in the steady state;
        megabytes sent over all links per batch, 10^6 bytes.

    Raises:
        UserError: on an unknown schedule, or no processors.
    """
    counts = list(processors)
    for schedule in schedules:
        look_up(SCHEDULES, schedule, "schedule")
    for count in counts:
        integer(count, "number of processors", 1)
    rows = []
    for name, units in networks.items():
        for count in counts:
            base = run("pipedream", units, count, device)
            for schedule in schedules:
                per_processor = SCHEDULES[schedule].stages_per_processor
                if per_processor == 1 or per_processor * count <= len(units.stages):
                    line = base if schedule == "pipedream" else run(schedule, units, count, device)
                    rows.append(_row(name, schedule, count, line, base))
    return rows


def run(schedule: str, units: Costs, processors: int, device: Device) -> Timeline:
    """Simulate a schedule of the table on a network given by its units' costs."""
    if schedule == "layerpipe":
        plan = layerpipe(len(units.stages), processors, 16 * processors, units, device)
        return simulate(plan, units, device)
    used = min(processors, len(units.stages))
    stages = SCHEDULES[schedule].stages_per_processor * used
    costs = grouped(units, stages, device)
    if SCHEDULES[schedule].synchronous:
        return simulate(repeat(build_schedule(schedule, stages, used, 4 * used), 3), costs, device)
    return simulate(build_schedule(schedule, stages, used, 16 * used), costs, device)


def grouped(units: Costs, stages: int, device: Device) -> Costs:
    """Return the costs of the best contiguous cut into ``stages``."""
    cuts = [(float(s.output_bytes), float(s.output_bytes)) for s in units.stages[:-1]]
    starts = chain_cuts(units.seconds(device), cuts, stages, device.link.occupation)
    return replace(units, stages=merge(units.stages, starts), delays=Delays.none(stages))


def _row(network: str, schedule: str, processors: int, line: Timeline, base: Timeline) -> dict[str, object]:
    period, used = line.period, line.schedule.num_processors
    row = {"network": network, "processors": processors, "schedule": schedule, "used": used, "period": period}
    share, sent = line.steady_utilisation * used / processors, line.bytes_per_batch / 1e6
    return row | {"speed": base.period / period, "utilisation": share, "megabytes": sent}
