"""The one reader of result tables: CSV files whose columns, rows and values are checked.

Units: accuracies are fractions in [0, 1], losses are mean cross-entropy in nats, delays are optimizer updates,
``history_copies`` counts copies of the model's parameters beside the latest ones.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from layerpipe2.errors import UserError

TEXT = {
    *("dataset", "network", "convention", "strategy", "status", "optimizer", "commit", "device", "delays", "rate"),
    *("reference", "claim", "statement", "evidence", "panel", "series", "schedule", "placement", "variant", "sampler"),
    *("thread", "what"),
}
"""Columns of any table that are not taken for numbers."""
BUSY = 0.5
"""Busy cores or load average before a measurement, above which other work shared the processor."""


@dataclass(frozen=True)
class TableForm:
    """What a table must look like.

    Attributes:
        columns: those it must have; it may have more. All but :data:`TEXT` are numbers.
        optional: those that may lack a value in some rows; all others must have one in every row.
        key: those that no two rows may share; none: not checked.
        may_be_empty: whether it may have no rows.
    """

    columns: Sequence[str]
    optional: Collection[str] = ()
    key: Sequence[str] = ()
    may_be_empty: bool = False


def read_table(path: Path, form: TableForm, remedy: str) -> pd.DataFrame:
    """Read a table of this form.

    Raises:
        UserError: if it is missing or unreadable, or not of this form; ``remedy`` ends the message.
    """
    with one_line(f"results file '{path}'", remedy):
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
    missing = [column for column in form.columns if column not in table]
    if missing:
        raise UserError(f"results file '{path}' lacks the columns {', '.join(missing)}; {remedy}")
    if table.empty and not form.may_be_empty:
        raise UserError(f"results file '{path}' has no rows; {remedy}")
    for column in form.columns:
        absent = table[column].isna()
        if column not in form.optional and absent.any():
            row = int(table.index[absent][0]) + 2  # line of the file: header, counted from 1
            where = "" if absent.all() else f", line {row},"
            raise UserError(f"results file '{path}'{where} has no {column}; {remedy}")
        if column not in TEXT:
            with one_line(f"results file '{path}', column {column}", remedy):
                table[column] = pd.to_numeric(table[column])
    if form.key and (twice := table.duplicated(list(form.key))).any():
        row = table[twice].iloc[0][list(form.key)].to_dict()
        raise UserError(f"results file '{path}' has two rows for {row}; {remedy}")
    return table


@contextmanager
def one_line(what: str, remedy: str) -> Iterator[None]:
    """Say in one line, with the ``remedy``, what can't be read; pandas' errors are values' too."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{what} does not exist; {remedy}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what} cannot be read ({reason}); {remedy}") from None
