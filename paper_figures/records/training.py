"""The records of the default experiment: four tables of one data set and one delay law."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.objectives import judged
from layerpipe2.lab.networks import NETWORKS
from paper_figures.records import TEXT, TableForm, read_experiment, read_table
from paper_figures.text import law_of

RUN = ["network", "group_size", "strategy", "seed", "rate"]
"""The columns that name one run."""

CONFIGURATION = ["network", "group_size"]
"""The columns that name one partition of one network."""


_MAY_BE_EMPTY = {"optimizer", "momentum", "diverged_epoch", "test_accuracy", "test_loss", "final_val_accuracy"} | {
    *("train_loss", "train_accuracy", "val_loss", "val_accuracy", "relative_error")
}


def _form(key: list[str], *columns: str, may_be_empty: bool = False) -> TableForm:
    columns = (*key, *columns)
    return TableForm(columns, set(columns) - TEXT, set(columns) - _MAY_BE_EMPTY, key, may_be_empty)


_RESULTS = ("status", "diverged_epoch", "test_accuracy", "test_loss", "test_images", "final_val_accuracy")
_SETTINGS = ("dataset", "num_stages", "max_delay", "convention", "optimizer", "momentum", "lr", "history_copies")
_FORMS = {
    "runs": _form(RUN, *_SETTINGS, *_RESULTS),
    "epochs": _form([*RUN, "epoch"], "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    "reconstruction": _form(
        [*CONFIGURATION, "seed", "rate", "stage", "strategy"], "delay", "relative_error", "n", may_be_empty=True
    ),
    "stages": _form([*CONFIGURATION, "stage"], "delay", "parameters"),
}
_EXAMPLES = TableForm(
    ["network", "group_size", "rate", "strategy", "reference", "examples", "spread"],
    ["examples", "spread"],
    may_be_empty=True,
)
_TRIAL = ["network", "strategy", "round", "trial"]


def _tuning_form(value: str) -> TableForm:
    return TableForm([*_TRIAL, "status", value, "lr", "edge"], [value, "lr"], [*_TRIAL, "status"], _TRIAL)


@dataclass(frozen=True)
class Records:
    """All records of one experiment: one data set, one delay law.

    Attributes:
        runs: one row per training run, but for those of ``common``.
        common: runs at one learning rate for all; None if there are none.
        epochs: one row per run and epoch.
        reconstruction: one row per probed stash run, stage and decay rule.
        stages: one row per partition and stage.
        examples: spread of the difference of two strategies over the test examples; None if no record knows it.
        tuning: one row per trial of the studies, with ``val_accuracy`` or, if losses are judged, ``val_loss``; None
            if the learning rate is a setting.
        experiment: its description, ``experiment.json``.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    reconstruction: pd.DataFrame
    stages: pd.DataFrame
    examples: pd.DataFrame | None = None
    common: pd.DataFrame | None = None
    tuning: pd.DataFrame | None = None
    experiment: dict[str, Any] = field(default_factory=dict)

    @property
    def all_runs(self) -> pd.DataFrame:
        """With those at one rate for all."""
        return self.runs if self.common is None else pd.concat([self.runs, self.common], ignore_index=True)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.runs["dataset"].iloc[0])

    @property
    def convention(self) -> str:
        """Delay law of the pipelined runs (of all runs, if none is pipelined)."""
        return law_of(self.runs)

    @property
    def networks(self) -> list[str]:
        """Network names, fully connected first, then by name."""
        return sorted(self.runs["network"].unique(), key=lambda name: (NETWORKS[name].kind != "fully connected", name))

    def num_stages(self) -> dict[tuple[str, int], int]:
        """(network, group size) -> number of stages."""
        first = self.runs.groupby(CONFIGURATION)["num_stages"].first()
        return {(str(network), int(group)): int(k) for (network, group), k in first.items()}

    def units(self) -> dict[str, int]:
        """Network -> number of units, where a run tells: one stage of L units, or L stages of one unit."""
        known: dict[str, int] = {}
        for (network, group), stages in self.num_stages().items():
            if 1 in (stages, group):
                known[network] = stages * group
        return known


def load(folder: Path) -> Records:
    """Read the tables of a folder, ``tuning.csv`` if it is there, and ``experiment.json``.

    Raises:
        UserError: on a file that is missing, empty, unreadable, or that lacks a column; on a value that is not a
            number, a duplicate row, or records that mix data sets or delay laws.
    """
    remedy = _remedy(folder)
    tables = {name: read_table(folder / f"{name}.csv", form, remedy) for name, form in _FORMS.items()}
    experiment = read_experiment(folder, remedy)
    examples, tuning = (
        read_table(folder / f"{name}.csv", form, remedy) if (folder / f"{name}.csv").exists() else None
        for name, form in (("examples", _EXAMPLES), ("tuning", _tuning_form(f"val_{judged(experiment['report'])}")))
    )
    runs, epochs = tables["runs"], tables["epochs"]
    own = {"runs": runs[runs["rate"] != "common"], "epochs": epochs[epochs["rate"] != "common"]}
    common = runs[runs["rate"] == "common"]
    more = {"examples": examples, "common": common if len(common) else None, "tuning": tuning}
    records = Records(**tables | own, **more, experiment=experiment)
    _check_status(runs, folder / "runs.csv", remedy)
    _check_one(records.runs, "dataset", folder)
    _check_one(records.runs[records.runs["num_stages"] > 1], "convention", folder)
    return records


def _remedy(folder: Path) -> str:
    """How tables are made again: those of an experiment lie in ``NAME/tables``, those of the default one do not."""
    named = folder.name == "tables"
    return f"run: python -m experiments.collect {folder.parent.name}" if named else "run: make reproduce"


def _check_status(runs: pd.DataFrame, path: Path, remedy: str) -> None:
    unknown = set(runs["status"]) - {"completed", "diverged"}
    if unknown:
        raise UserError(f"results file '{path}' has status '{min(unknown)}'; known: completed, diverged; {remedy}")
    lost = runs[(runs["status"] == "completed") & runs["test_accuracy"].isna()]
    if len(lost):
        row = lost.iloc[0][RUN].to_dict()
        raise UserError(f"results file '{path}': the completed run {row} has no test_accuracy; {remedy}")


def _check_one(runs: pd.DataFrame, column: str, folder: Path) -> None:
    values = sorted(runs[column].unique())
    if len(values) > 1:
        raise UserError(
            f"results in '{folder}' mix {column}s ({', '.join(values)}); keep one {column} per results folder"
        )
