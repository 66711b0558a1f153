"""The records that figures, tables and verdicts are made of: four CSV files, checked when they are read.

Units: accuracies are fractions in [0, 1], losses are mean cross-entropy in nats, delays are optimizer updates,
``history_copies`` counts copies of the model's parameters beside the latest ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from layerpipe2.errors import UserError

RUN = ["network", "group_size", "strategy", "seed"]
"""The columns that name one run."""

CONFIGURATION = ["network", "group_size"]
"""The columns that name one partition of one network."""

REMEDY = "run the training and 'collect' stages again (make reproduce)"

_TEXT = {"dataset", "network", "convention", "strategy", "status"}
_REQUIRED = {
    "runs": [
        "dataset", *RUN, "num_stages", "max_delay", "convention", "optimizer", "momentum", "lr", "status",
        "diverged_epoch", "test_accuracy", "test_loss", "test_images", "final_val_accuracy", "history_copies",
    ],
    "epochs": [*RUN, "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"],
    "reconstruction": [*CONFIGURATION, "seed", "stage", "delay", "strategy", "relative_error", "n"],
    "stages": [*CONFIGURATION, "stage", "delay", "parameters"],
}  # fmt: skip
_KEYS = {
    "runs": RUN,
    "epochs": [*RUN, "epoch"],
    "reconstruction": [*CONFIGURATION, "seed", "stage", "strategy"],
    "stages": [*CONFIGURATION, "stage"],
}
_MAY_BE_EMPTY = {
    "optimizer", "momentum", "diverged_epoch", "test_accuracy", "test_loss", "final_val_accuracy",
    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "relative_error",
}  # fmt: skip


@dataclass(frozen=True)
class Records:
    """All records of one experiment: one data set, one delay convention.

    Attributes:
        runs: one row per training run.
        epochs: one row per run and epoch.
        reconstruction: one row per probed stash run, stage and decay rule.
        stages: one row per partition and stage.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    reconstruction: pd.DataFrame
    stages: pd.DataFrame

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.runs["dataset"].iloc[0])

    @property
    def convention(self) -> str:
        """Delay convention of the pipelined runs (of all runs, if none is pipelined)."""
        pipelined = self.runs[self.runs["num_stages"] > 1]
        return str((pipelined if len(pipelined) else self.runs)["convention"].iloc[0])

    @property
    def networks(self) -> list[str]:
        """Network names, fully connected first, then by name."""
        return sorted(self.runs["network"].unique(), key=lambda name: (name != "mlp", name))

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
    """Read ``runs.csv``, ``epochs.csv``, ``reconstruction.csv`` and ``stages.csv`` of a folder.

    Raises:
        UserError: on a file that is missing, empty, unreadable, or that lacks a column; on a value that is not a
            number, a duplicate row, or records that mix data sets or delay conventions.
    """
    records = Records(**{name: _read(folder / f"{name}.csv", name) for name in _REQUIRED})
    _check_status(records.runs, folder / "runs.csv")
    _check_one(records.runs, "dataset", folder)
    _check_one(records.runs[records.runs["num_stages"] > 1], "convention", folder)
    return records


def read_csv(path: Path, columns: Sequence[str], text: Collection[str], remedy: str) -> pd.DataFrame:
    """A table with at least these columns and one row; the columns in ``text`` are not taken for numbers.

    Raises:
        UserError: if it is missing or unreadable, has no rows, or lacks a column; ``remedy`` ends the message.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    except FileNotFoundError:
        raise UserError(f"results file '{path}' does not exist; {remedy}") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"results file '{path}' cannot be read ({reason}); {remedy}") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"results file '{path}' lacks the columns {', '.join(missing)}; {remedy}")
    if table.empty:
        raise UserError(f"results file '{path}' has no rows; {remedy}")
    return table


def _read(path: Path, name: str) -> pd.DataFrame:
    table = read_csv(path, _REQUIRED[name], _TEXT, REMEDY)
    _check_values(table, _REQUIRED[name], path)
    if table.duplicated(_KEYS[name]).any():
        row = table[table.duplicated(_KEYS[name])].iloc[0][_KEYS[name]].to_dict()
        raise UserError(f"results file '{path}' has two rows for {row}; {REMEDY}")
    return table


def _check_values(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    for column in columns:
        if column not in _MAY_BE_EMPTY and table[column].isna().any():
            row = int(table.index[table[column].isna()][0]) + 2  # line of the file: header, counted from 1
            raise UserError(f"results file '{path}', line {row}, has no {column}; {REMEDY}")
        if column not in _TEXT and column != "optimizer":
            try:
                table[column] = pd.to_numeric(table[column])
            except (ValueError, TypeError) as error:
                raise UserError(f"results file '{path}', column {column}: {error}; {REMEDY}") from None


def _check_status(runs: pd.DataFrame, path: Path) -> None:
    unknown = set(runs["status"]) - {"completed", "diverged"}
    if unknown:
        raise UserError(f"results file '{path}' has status '{min(unknown)}'; known: completed, diverged; {REMEDY}")
    lost = runs[(runs["status"] == "completed") & runs["test_accuracy"].isna()]
    if len(lost):
        row = lost.iloc[0][RUN].to_dict()
        raise UserError(f"results file '{path}': the completed run {row} has no test_accuracy; {REMEDY}")


def _check_one(runs: pd.DataFrame, column: str, folder: Path) -> None:
    values = sorted(runs[column].unique())
    if len(values) > 1:
        raise UserError(
            f"results in '{folder}' mix {column}s ({', '.join(values)}); keep one {column} per results folder"
        )
