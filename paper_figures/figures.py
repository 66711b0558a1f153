"""All figures of the reproduction by file name: pure functions of the records."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from paper_figures import figure_reconstruction, figure_structure, figure_training
from paper_figures.records import Records


def catalogue(records: Records) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws the figure. There is one figure of learning curves per network."""
    curves = {f"curves_{name}": partial(figure_training.curves, records, name) for name in records.networks}
    return {
        "final_accuracy": partial(figure_training.final_accuracy, records),
        "delays": partial(figure_structure.delays, records),
        **curves,
        "reconstruction": partial(figure_reconstruction.reconstruction, records),
        "memory": partial(figure_structure.memory, records),
    }
