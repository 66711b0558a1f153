"""Figures of pipelines that were run on real processes, by file name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from paper_figures import variant_style
from paper_figures.figures.pipelines import memory, speed, timeline
from paper_figures.records.pipelines import PipelineRecords


def catalogue(records: PipelineRecords) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws the figure, of what was measured."""
    bench = records.main
    exact = [variant_style.is_exact(name) for name in bench.traces]
    possible = {
        "speed": (speed.speed, True),
        "memory": (memory.memory, not bench.memory.empty),
        "timeline": (timeline.bubble, not all(exact)),
        "timeline_split": (timeline.split, any(exact)),
        "time_to_target": (speed.time_to_target, not bench.targets.empty),
    }
    return {stem: partial(draw, records) for stem, (draw, measured) in possible.items() if measured}
