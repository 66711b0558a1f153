"""Result tables, checked when they are read: of training runs, of the theory, of tuned experiments, of real pipelines.

Units: accuracies are fractions in [0, 1], losses are mean cross-entropy in nats, delays are optimizer updates,
``history_copies`` counts copies of the model's parameters beside the latest ones.

The one reader of them is here: CSV files whose columns, rows and values are checked.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.report import Report
from layerpipe2.lab.runs.records import read_json
from layerpipe2.lab.runs.validation import Checked, Positive, checked

TEXT = {"dataset", "network", "convention", "strategy", "status", "optimizer", "commit", "device", "delays"} | {
    *("rate", "reference", "claim", "statement", "evidence", "panel", "series", "schedule")
}
"""Columns of any table that are not taken for numbers."""
BUSY = 0.5
"""Busy cores or load average before a measurement, above which other work shared the processor."""


@dataclass(frozen=True)
class TableForm:
    """What a table must look like.

    Attributes:
        columns: those it must have; it may have more.
        numbers: those whose values must be numbers.
        filled: those that must have a value in every row.
        key: those that no two rows may share; none: not checked.
        may_be_empty: whether it may have no rows.
    """

    columns: Sequence[str]
    numbers: Collection[str] = ()
    filled: Collection[str] = ()
    key: Sequence[str] = ()
    may_be_empty: bool = False


def read_table(path: Path, form: TableForm, remedy: str) -> pd.DataFrame:
    """A table of this form.

    Raises:
        UserError: if it is missing or unreadable, or not of this form; ``remedy`` ends the message.
    """
    with _one_line(path, remedy):
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
    missing = [column for column in form.columns if column not in table]
    if missing:
        raise UserError(f"results file '{path}' lacks the columns {', '.join(missing)}; {remedy}")
    if table.empty and not form.may_be_empty:
        raise UserError(f"results file '{path}' has no rows; {remedy}")
    return _checked(table, form, path, remedy)


def _checked(table: pd.DataFrame, form: TableForm, path: Path, remedy: str) -> pd.DataFrame:
    for column in form.columns:
        if column in form.filled and table[column].isna().any():
            row = int(table.index[table[column].isna()][0]) + 2  # line of the file: header, counted from 1
            raise UserError(f"results file '{path}', line {row}, has no {column}; {remedy}")
        if column in form.numbers:
            try:
                table[column] = pd.to_numeric(table[column])
            except (ValueError, TypeError) as error:
                raise UserError(f"results file '{path}', column {column}: {error}; {remedy}") from None
    twice = table.duplicated(list(form.key)) if form.key else None
    if twice is not None and twice.any():
        row = table[twice].iloc[0][list(form.key)].to_dict()
        raise UserError(f"results file '{path}' has two rows for {row}; {remedy}")
    return table


class _Report(Report):
    guess_nats: dict[str, Positive] | None = None


class _Experiment(Checked):
    """What :func:`experiments.collect.described` writes."""

    name: str
    published: bool
    optimizers: list[str]
    seeds: list[int]
    stages: list[int] | None
    group_sizes: list[int] | None
    strategies: list[str]
    network: str
    dataset: str
    width: int | None
    epochs: int | None
    report: _Report
    planned: int
    finished: int
    margins: dict[str, Positive] | None = None


def read_experiment(folder: Path, remedy: str) -> dict[str, Any]:
    """The description ``experiment.json`` beside an experiment's tables.

    Raises:
        UserError: if it is missing or unreadable, or lacks something.
    """
    path = folder / "experiment.json"
    description = read_json(path, remedy)
    checked(_Experiment, description, f"{path}: {remedy}")
    return description


@contextmanager
def _one_line(path: Path, remedy: str) -> Iterator[None]:
    """One line on a file that can't be read; pandas' errors are values' too."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"results file '{path}' does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"results file '{path}' cannot be read ({reason}); {remedy}") from None
