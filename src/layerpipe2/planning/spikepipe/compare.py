"""SpikePipe's schedule against standard pipelining: every network and number of processors, on one array.

*Standard*: one contiguous group of units per processor, a whole time sequence per task, in the order of LayerPipe2's
schedule (the gradient is sent before the weight gradient is computed), simulated by ``layerpipe2.planning.schedules``.
The others are list schedules: placement *fixed* (contiguous groups), *together* or *free*, see
``layerpipe2.planning.spikepipe.scheduler``. **All train with the same delays**, LayerPipe2's 2S of the standard stages,
so that they compute the same numbers; they differ in speed alone. A network of fewer units than processors leaves
processors unused in standard pipelining and in placement *fixed*.

The steady state is the middle half of a simulated run: the utilisation is the share of that time in which the
processors compute, and the period is the time in which they do the work of one mini-batch at that rate. Nothing is
extrapolated.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from layerpipe2.delays import Delays
from layerpipe2.errors import integer
from layerpipe2.planning.balance import chain_cuts, merge
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import FlopDevice
from layerpipe2.planning.schedules.registry import build_schedule
from layerpipe2.planning.schedules.simulator import simulate
from layerpipe2.planning.spikepipe.networks import KINDS, SPIKING, Setting, Unit, spiking
from layerpipe2.planning.spikepipe.scheduler import list_schedule
from layerpipe2.planning.spikepipe.tasks import task_graph
from layerpipe2.planning.spikepipe.validate import check
from layerpipe2.planning.work import StageWork, Work

PROCESSORS = (2, 4, 8, 12, 16)
BATCHES = 64
"""Mini-batches of a simulated run."""
PLACEMENTS = ("fixed", "together", "free")


def compare(
    networks: Iterable[str] = tuple(SPIKING),
    processors: Iterable[int] = PROCESSORS,
    setting: Setting | None = None,
    placements: Sequence[str] = PLACEMENTS,
) -> list[dict[str, object]]:
    """Make the table; every plan in it is checked.

    Returns:
        Rows of network; processors; placement (``standard`` first); steps, time steps per task, 1 and all; period, in s
        per mini-batch; speed over standard pipelining; utilisation of the processors; work, their computing time per
        mini-batch in s; megabytes sent per mini-batch, 10^6 bytes; communication, the share of the links' busy time in
        that of links and processors.

    Raises:
        UserError: on an unknown network, or no processors.
    """
    setting, rows = setting or Setting(), list[dict[str, object]]()
    for name in networks:
        units = spiking(name)
        for count in processors:
            integer(count, "number of processors", 1, 1024)
            base = standard(units, count, setting)
            rows.append(_row(name, count, "standard", setting.time_steps, base, base))
            for steps in sorted({1, setting.time_steps}):
                for placement in placements:
                    if steps == 1 or placement != "fixed":  # whole sequences on fixed groups are standard pipelining
                        found = fine(units, count, setting, placement, steps)
                        rows.append(_row(name, count, placement, steps, found, base))
    return rows


def standard(units: Sequence[Unit], processors: int, setting: Setting) -> dict[str, float]:
    """Simulate standard pipelining: measures of the steady state, see :func:`compare`."""
    works = [_whole(k, unit, setting) for k, unit in enumerate(units)]
    starts = groups(units, processors, setting, setting.time_steps)
    stages, device = merge(works, starts), FlopDevice(1.0, setting.array.link)
    costs = Costs(stages, Delays.layerpipe2(len(stages)), batch_size=setting.batch_size)
    line = simulate(build_schedule("layerpipe2", len(stages), len(stages), BATCHES), costs, device)
    start, end = np.array([(event.start, event.end) for event in line.events]).T
    sent = sum(line.link_bytes.values())
    return _measures(start, end, processors, BATCHES, sent, setting)


def fine(
    units: Sequence[Unit], processors: int, setting: Setting, placement: str, steps: int, batches: int = BATCHES
) -> dict[str, float]:
    """Make a list schedule of tasks of ``steps`` time steps: the same measures."""
    used = min(processors, len(units))
    law = Delays.layerpipe2(used)
    of = _stage(groups(units, processors, setting, setting.time_steps))
    graph = task_graph(units, setting, steps, Delays.custom([law.per_stage[stage] for stage in of]))
    cut = _stage(groups(units, processors, setting, steps))
    home = [cut[task.unit] for task in graph.tasks] if placement == "fixed" else None
    plan = list_schedule(graph, batches, processors, setting.array.link, home, together=placement == "together")
    check(plan)
    return _measures(plan.start, plan.end, processors, batches, float(plan.sent[:, 0].sum()), setting)


def groups(units: Sequence[Unit], processors: int, setting: Setting, steps: int) -> tuple[int, ...]:
    """Return starts of the best contiguous groups for tasks of so many steps, and the number of units."""
    time = setting.time_steps
    loads = [time / steps * sum(_seconds(kind, k, u, setting, steps) for kind in KINDS) for k, u in enumerate(units)]
    cuts = [(setting.message(u.outputs, time, 1), setting.message(u.outputs, time)) for u in units]
    return chain_cuts(loads, cuts[:-1], min(processors, len(units)), setting.array.link.occupation)


def _stage(starts: Sequence[int]) -> list[int]:
    return [stage for stage, (a, b) in enumerate(pairwise(starts)) for _ in range(a, b)]


def _seconds(kind: str, k: int, unit: Unit, setting: Setting, steps: int) -> float:
    return 0.0 if (kind, k) == ("B", 0) else setting.seconds(kind, unit, steps)


def _whole(k: int, unit: Unit, setting: Setting) -> StageWork:
    """Return a unit's tasks of whole sequences, in s in the place of operations."""
    forward, activation, weight = (Work(_seconds(kind, k, unit, setting, setting.time_steps)) for kind in KINDS)
    gradient = int(setting.message(unit.inputs, setting.time_steps))
    spikes = int(setting.message(unit.outputs, setting.time_steps, 1))
    return StageWork(forward, activation, weight, input_bytes=gradient, output_bytes=spikes)


def _measures(
    start: NDArray[np.float64], end: NDArray[np.float64], processors: int, batches: int, sent: float, setting: Setting
) -> dict[str, float]:
    first, last = end.max() / 4, 3 * end.max() / 4
    computing = np.clip(np.minimum(end, last) - np.maximum(start, first), 0, None).sum()
    utilisation = float(computing / (last - first) / processors)
    work, links = float((end - start).sum()) / batches, setting.array.link.occupation(sent / batches)
    found = {"period": work / processors / utilisation, "utilisation": utilisation, "work": work}
    return found | {"megabytes": sent / batches / 1e6, "communication": links / (links + work)}


def _row(
    network: str, processors: int, placement: str, steps: int, found: dict[str, float], base: dict[str, float]
) -> dict[str, object]:
    where = {"network": network, "processors": processors, "placement": placement, "steps": steps}
    return where | {"speed": base["period"] / found["period"]} | found
