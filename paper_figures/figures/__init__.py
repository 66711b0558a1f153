"""All figures of the reproduction by file name: pure functions of the records."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from paper_figures.figures import reconstruction, structure, training
from paper_figures.records import Records


def catalogue(records: Records) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws the figure. There is one figure of learning curves per network."""
    curves = {f"curves_{name}": partial(training.curves, records, name) for name in records.networks}
    return {
        "final_accuracy": partial(training.final_accuracy, records),
        "delays": partial(structure.delays, records),
        **curves,
        "reconstruction": partial(reconstruction.reconstruction, records),
        "memory": partial(structure.memory, records),
    }
