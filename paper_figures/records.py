"""The records of one experiment: tables of one data set and one delay law, with its description."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import COLUMNS
from layerpipe2.lab.judging.designs import RUN as NAMES_OF_RUN
from layerpipe2.lab.judging.objectives import judged
from layerpipe2.lab.judging.report import Report
from layerpipe2.lab.looks import ordered
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.records import read_json
from layerpipe2.lab.runs.validation import Checked, Positive, checked
from layerpipe2.strategies import find_strategy
from paper_figures.read import TableForm, read_table

RUN = [*NAMES_OF_RUN]
"""The columns that name one run."""
CONFIGURATION = ["network", "group_size"]
"""The columns that name one partition of one network."""
KEYS = {
    "runs": RUN,
    "epochs": [*RUN, "epoch"],
    "reconstruction": [*CONFIGURATION, "seed", "rate", "stage", "strategy"],
    "stages": [*CONFIGURATION, "stage"],
}
"""Table of :data:`layerpipe2.lab.judging.designs.COLUMNS` -> the columns that name a row."""
TRIAL = ["network", "strategy", "round", "trial"]
_OPTIONAL = {
    *("optimizer", "momentum", "diverged_epoch", "test_accuracy", "test_loss", "best_val_accuracy"),
    *("final_val_accuracy", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "relative_error"),
}
"""What a run that diverged lacks, and a sequential one."""


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
        """The runs with those at one rate for all."""
        return self.runs if self.common is None else pd.concat([self.runs, self.common], ignore_index=True)

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.runs["dataset"].iloc[0])

    @property
    def convention(self) -> str:
        """The delay law of the pipelined runs (of all runs, if none is pipelined)."""
        pipelined = self.runs[self.runs["num_stages"] > 1]
        return str((pipelined if len(pipelined) else self.runs)["convention"].iloc[0])

    @property
    def networks(self) -> list[str]:
        """The names of the networks, fully connected first, then by name."""
        return sorted(self.runs["network"].unique(), key=lambda name: (NETWORKS[name].kind != "fully connected", name))

    def of_histories(self) -> Self:
        """Leave out the strategies that act on the delay itself, which are compared on the field's page."""
        tables = {name: getattr(self, name) for name in ("runs", "epochs", "common", "tuning")}
        kept = {
            name: table[table["strategy"].map(lambda strategy: find_strategy(strategy).family != "field")]
            for name, table in tables.items()
            if table is not None
        }
        return replace(self, **kept)

    def units(self) -> dict[str, int]:
        """Count each network's units, where a run tells: one stage of L units, or L stages of one unit."""
        stages = self.runs.groupby(CONFIGURATION)["num_stages"].first()
        return {str(name): int(k * group) for (name, group), k in stages.items() if 1 in (k, group)}

    def sorted(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Sort rows by network, number of stages, delay and strategy, as far as they have them."""
        orders = {"network": self.networks, "strategy": ordered(rows.get("strategy", []))}
        ranks = {column: {name: place for place, name in enumerate(names)} for column, names in orders.items()}
        keys = [key for key in ("network", "stages", "delay", "strategy") if key in rows]
        return rows.sort_values(keys, key=lambda c: c.map(ranks.get(str(c.name), lambda v: v)), ignore_index=True)


def load(folder: Path) -> Records:
    """Read the tables of a folder, ``tuning.csv`` if it is there, and ``experiment.json``.

    Raises:
        UserError: if one is missing or broken, or they mix data sets or delay laws.
    """
    named = folder.name == "tables"  # those of the default experiment lie in results
    remedy = f"run: python -m experiments.collect {folder.parent.name}" if named else "run: make reproduce"

    def read(name: str, form: TableForm) -> pd.DataFrame:
        return read_table(folder / f"{name}.csv", form, remedy)

    tables = {
        name: read(name, TableForm(COLUMNS[name], _OPTIONAL - {*key}, key, may_be_empty=name == "reconstruction"))
        for name, key in KEYS.items()
    }
    experiment = read_json(folder / "experiment.json", remedy)
    checked(_Experiment, experiment, f"{folder / 'experiment.json'}: {remedy}")
    value = f"val_{judged(experiment['report'])}"
    more = {
        "examples": TableForm(COLUMNS["examples"], ("examples", "spread"), may_be_empty=True),
        "tuning": TableForm([*TRIAL, "status", value, "lr", "edge"], (value, "lr", "edge"), TRIAL),
    }
    known = {name: read(name, form) for name, form in more.items() if (folder / f"{name}.csv").exists()}
    runs, epochs = tables["runs"], tables["epochs"]
    _check(runs, folder, remedy)
    common = runs[runs["rate"] == "common"]
    own = {"runs": runs[runs["rate"] != "common"], "epochs": epochs[epochs["rate"] != "common"]}
    return Records(**tables | own | known, common=common if len(common) else None, experiment=experiment)


class _Experiment(Checked, extra="ignore"):
    """What is needed of what :func:`experiments.collect.described` writes."""

    name: str
    published: bool
    seeds: list[int]
    report: "_Report"
    planned: int
    finished: int
    margins: dict[str, Positive] | None = None


class _Report(Report):
    guess_nats: dict[str, Positive] | None = None


def _check(runs: pd.DataFrame, folder: Path, remedy: str) -> None:
    path = folder / "runs.csv"
    unknown = set(runs["status"]) - {"completed", "diverged"}
    if unknown:
        raise UserError(f"results file '{path}' has status '{min(unknown)}'; known: completed, diverged; {remedy}")
    lost = runs[(runs["status"] == "completed") & runs["test_accuracy"].isna()]
    if len(lost):
        row = lost.iloc[0][RUN].to_dict()
        raise UserError(f"results file '{path}': the completed run {row} has no test_accuracy; {remedy}")
    for column, mine in (("dataset", runs), ("convention", runs[runs["num_stages"] > 1])):
        values = sorted(mine[column].unique())
        if len(values) > 1:
            what = f"mix {column}s ({', '.join(values)}); keep one {column} per results folder"
            raise UserError(f"results in '{folder}' {what}")
