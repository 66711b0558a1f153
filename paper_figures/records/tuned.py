"""The records of a tuned experiment: learning rates are chosen first, then every strategy is trained with its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from paper_figures.records import TableForm, read_experiment, read_table

_CELL = ["optimizer", "num_stages", "strategy"]
_RUN = ["seed", "dataset", "network", "convention", "status", "test_accuracy", "test_images", "history_copies"]
_FORMS = {
    "runs": TableForm([*_CELL, *_RUN, "wall_time_s", "commit", "device"]),
    "epochs": TableForm([*_CELL, "seed", "epoch"]),
    "tuning": TableForm(["optimizer", "stages", "strategy", "lr", "val_accuracy"], may_be_empty=True),
    "chosen": TableForm([*_CELL, "lr", "edge"], may_be_empty=True),
}


@dataclass(frozen=True)
class TunedRecords:
    """What is finished of a tuned experiment.

    Attributes:
        experiment: its description: name, what it trains, how many runs are planned, what its verdicts demand.
        runs: final runs, one row each; ``strategy`` ends in ``-warm`` after epochs with exact weights.
        tuning: tuning runs: optimizer, stages, strategy, lr, val_accuracy (absent if diverged).
        chosen: optimizer, num_stages, strategy, lr, and ``edge``: whether it is the smallest or largest that was tried.
        epochs: one row per final run and epoch.
    """

    experiment: dict[str, Any]
    runs: pd.DataFrame
    tuning: pd.DataFrame
    chosen: pd.DataFrame
    epochs: pd.DataFrame

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.experiment["name"])

    @property
    def planned(self) -> int:
        """Number of all runs, tuning included."""
        return int(self.experiment["planned"])

    @property
    def finished(self) -> int:
        """Number of runs with a record, tuning included."""
        return len(self.runs) + len(self.tuning)


def load(folder: Path) -> TunedRecords:
    """Read the tables of one experiment.

    Raises:
        UserError: if one is missing or broken.
    """
    tables = {name: read_table(folder / f"{name}.csv", form, _remedy(folder)) for name, form in _FORMS.items()}
    return TunedRecords(description(folder), **tables)


def description(folder: Path) -> dict[str, Any]:
    """What ``experiment.json`` beside the tables says of the experiment.

    Raises:
        UserError: if it is missing or broken.
    """
    return read_experiment(folder, _remedy(folder))


def _remedy(folder: Path) -> str:
    return f"run: python -m experiments.collect {folder.parent.name}"
