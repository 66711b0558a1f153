"""Figures of pipelines that were run on real processes, by file name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from layerpipe2.planning.variants import Variant
from paper_figures.figures.pipelines import processes, speed
from paper_figures.records.pipelines import PipelineRecords


def catalogue(records: PipelineRecords) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws the figure, of what was measured."""
    bench = records.main
    exact = [name for name in bench.traces if Variant.parse(name).kind == "exact"]
    late = [name for name in bench.traces if name not in exact]
    return {
        "speed": partial(speed.speed, records),
        **({} if bench.memory.empty else {"memory": partial(processes.memory, records)}),
        **({"timeline": partial(processes.timeline, records, late)} if late else {}),
        **({"timeline_split": partial(processes.timeline, records, exact)} if exact else {}),
        **({} if bench.targets.empty else {"time_to_target": partial(speed.time_to_target, records)}),
    }
