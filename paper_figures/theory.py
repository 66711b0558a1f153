"""The tables of the theory, as ``experiments/theory.py`` writes them: no training run is in them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from paper_figures.read import TableForm, read_table

_CASE = "network processors schedule used period speed utilisation megabytes"
COLUMNS = {
    "proofs": "network units group_size convention stages delays claim holds evidence",
    "stability": "panel series x y",
    "partitions": "network group_size stages communication computation share balance parameters activations "
    "history_stash history_ema efficient",
    "schedules": _CASE,
    "devices": f"device {_CASE}",
    "spikepipe": "array network processors placement steps speed utilisation megabytes communication work",
}


@dataclass(frozen=True)
class Theory:
    """Tables that follow from the code alone.

    Attributes:
        proofs: one row per network, group size, delay law and proof.
        stability: one row per point that the training engine was measured at.
        partitions: one row per network and group size, modelled costs.
        schedules: one row per reference network, number of processors and schedule, simulated.
        devices: the same for PipeDream and LayerPipe on several devices.
        spikepipe: one row per array, spiking network, number of processors, placement and time steps per task.
    """

    proofs: pd.DataFrame
    stability: pd.DataFrame
    partitions: pd.DataFrame
    schedules: pd.DataFrame
    devices: pd.DataFrame
    spikepipe: pd.DataFrame


def load(folder: Path) -> Theory:
    """Read the six tables of a folder.

    Raises:
        UserError: on a file that is missing, empty or unreadable, or that lacks a column or a value.
    """
    forms = {name: TableForm(columns.split()) for name, columns in COLUMNS.items()}
    remedy = "run: python -m experiments.theory"
    return Theory(**{name: read_table(folder / f"{name}.csv", form, remedy) for name, form in forms.items()})
