"""All figures of the reproduction by file name: pure functions of the records and of the tables of the theory."""

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import SEQUENTIAL
from paper_figures.claims.assay import Assay
from paper_figures.figures import (
    answer,
    assay,
    costs,
    derivation,
    gantt,
    reconstruction,
    spikepipe,
    stability,
    structure,
    training,
    tuning,
)
from paper_figures.records.theory import Theory
from paper_figures.records.training import Records
from paper_figures.text import setting


def catalogue(records: Records, theory: Theory, judged: Assay, level: float) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws the figure. There is one figure of learning curves per network.

    ``judged`` are the records' cells, and 1 - 2 ``level`` is what their intervals hold.
    """
    where = setting(records.dataset, records.convention)
    costs_of_cells = {"history_costs": partial(assay.costs, judged, level, where)} if len(judged.costs) else {}
    tuned = {"tuning_rates": partial(tuning.rates, records)}
    curves = {f"curves_{name}": partial(training.curves, records, name) for name in records.networks}
    deepest = "tuned" in set(records.runs["rate"]) and SEQUENTIAL in set(records.runs["strategy"])
    return {
        **({"accuracy_and_copies": partial(answer.accuracy_and_copies, records, level)} if deepest else {}),
        **costs_of_cells,
        "final_accuracy": partial(training.final_accuracy, records),
        "delays": partial(structure.delays, records),
        **curves,
        **(tuned if records.tuning is not None and "val_accuracy" in records.tuning else {}),
        "reconstruction": partial(reconstruction.reconstruction, records),
        "memory": partial(structure.memory, records),
        "derivation_per_layer": derivation.per_layer,
        "derivation_grouped": derivation.grouped,
        "derivation_residual": derivation.residual,
        "derivation_pipedream": derivation.pipedream,
        "stability": partial(stability.stability, theory.stability),
        "reconstruction_theory": partial(reconstruction.reconstruction_theory, records),
        "costs_tradeoff": partial(costs.tradeoff, theory.partitions),
        "costs_memory": partial(costs.memory, theory.partitions),
        "gantt_equal": gantt.equal,
        "gantt_unequal": gantt.unequal,
        "schedules_speed": partial(costs.speeds, theory.schedules),
        "schedules_devices": partial(costs.devices, theory.devices),
        "spikepipe": partial(spikepipe.against_standard, theory.spikepipe),
    }
