"""The records of the evidence: coarse searches (``screen-*``), and the experiments that confirm what they found."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from layerpipe2.lab.judging.designs import PIPELINE
from paper_figures.records import TableForm, read_table, training
from paper_figures.records.training import Records

SCREEN = "screen-"
"""What the names of the coarse searches begin with."""

_PREDICTORS = TableForm((*PIPELINE, "lr", "diverged"), ("momentum", "num_stages", "lr", "diverged"), PIPELINE, PIPELINE)


def load(folder: Path) -> dict[str, Records]:
    """Name -> records of every published experiment that is collected in ``folder``, in the order of their names.

    Raises:
        UserError: if a table is broken.
    """
    found = {path.parent.name: training.load(path) for path in sorted(folder.glob("*/tables"))}
    return {name: records for name, records in found.items() if records.experiment["published"]}


def predictors(folder: Path) -> dict[str, pd.DataFrame]:
    """Name -> what was measured of an experiment's cells before their training, where that was done.

    Raises:
        UserError: if a table is broken.
    """
    paths = sorted(folder.glob("*/predictors.csv"))
    remedy = "delete it, and run: python -m experiments.predictors"
    return {path.parent.name: read_table(path, _PREDICTORS, f"{remedy} {path.parent.name}") for path in paths}


def screens(found: dict[str, Records]) -> dict[str, Records]:
    """The coarse searches."""
    return {name: records for name, records in found.items() if name.startswith(SCREEN)}


def confirmations(found: dict[str, Records]) -> dict[str, Records]:
    """The others."""
    return {name: records for name, records in found.items() if not name.startswith(SCREEN)}


def hours(folder: Path, names: Iterable[str]) -> float:
    """Hours of a process, of the runs of these experiments."""
    tables = (pd.read_csv(folder / name / "tables" / "times.csv") for name in names)
    return sum(float(table["wall_time_s"].sum()) for table in tables) / 3600
