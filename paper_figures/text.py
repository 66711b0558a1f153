"""Numbers, lists and tables as text for readers. Accuracies are in per cent, their differences in percentage points."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.lab.data import DATASETS
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.strategies import find_strategy

Format = Callable[[Any], str]


def network_label(name: str) -> str:
    """A network's name for readers; that of the benchmark's own network is what it is."""
    return NETWORKS[name].label if name in NETWORKS else {"even": "Eight equal convolutions"}.get(name, name)


def dataset_label(name: str) -> str:
    """A data set's name for readers."""
    return DATASETS[name].label


def optimizer_label(name: str, momentum: float) -> str:
    """``AdamW``, ``SGD`` or ``momentum 0.9``."""
    return "AdamW" if name == "adamw" else f"momentum {momentum:g}" if momentum else "SGD"


def amount(value: float, unit: str) -> str:
    """``0.5 points``, ``1 point``, ``0.02 nats``."""
    return f"{value:g} {unit.removesuffix('s') if value == 1 else unit}"


def law_label(name: str) -> str:
    """A delay law's name for readers."""
    return DELAY_LAWS[name].label if name in DELAY_LAWS else name


def setting(dataset: str, law: str) -> str:
    """What every result must be read with: the data and the delays."""
    return f"Data: {dataset_label(dataset)}; delays: {law_label(law)}."


def number(digits: int) -> Format:
    """Fixed-point format; an absent value is a dash."""
    return lambda value: "–" if pd.isna(value) else f"{value:.{digits}f}"


def significant(value: object) -> str:
    """Three significant digits, for values over many decades."""
    return "–" if pd.isna(value) else f"{value:.3g}"


def percent(share: float, form: str = ".0f") -> str:
    """``24 %``; another format may give a sign or digits."""
    return f"{100 * share:{form}} %"


def mean_spread(mean: float, sd: float, n: int, diverged: int = 0) -> str:
    """``97.3 ± 0.4 (n=3)``; says how many runs diverged, and never shows a spread of one run."""
    lost = f"{diverged} of {n + diverged} diverged" if diverged else ""
    if n == 0:
        return lost or "–"
    spread = f" ± {sd:.2f}" if n > 1 else ""
    return f"{mean:.2f}{spread} (n={n}{', ' + lost if lost else ''})"


def median_range(values: pd.Series) -> str:
    """``1.85× (1.80–1.90, n=5)``: median, smallest and largest."""
    return f"{values.median():.2f}× ({values.min():.2f}–{values.max():.2f}, n={len(values)})"


def span(values: Iterable[float], form: Callable[[float], str] = str) -> str:
    """``-4 % to +7 %``: the ends; one text if both read the same, and that of 0 if there are no values."""
    found = list(values) or [0]
    low, high = form(min(found)), form(max(found))
    return low if low == high else f"{low} to {high}"


def listed(words: Iterable[object]) -> str:
    """``a, b and c``."""
    *head, last = [str(word) for word in words] or ["–"]
    return f"{', '.join(head)} and {last}" if head else last


def plural(count: object, word: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


_COLUMNS: Mapping[str, tuple[str, Format]] = {
    "network": ("network", lambda v: network_label(str(v))),
    "strategy": ("strategy", lambda v: find_strategy(str(v)).label),
    "group_size": ("units per stage", str),
    "mean": ("mean", significant),
    "min": ("min", significant),
    "max": ("max", significant),
    "train_loss": ("train loss (nats)", number(4)),
    "train_accuracy": ("train accuracy (%)", number(2)),
    "val_loss": ("val. loss (nats)", number(4)),
    "val_accuracy": ("val. accuracy (%)", number(2)),
    "recorded_delays": ("delays as recorded (updates)", str),
    **{f"{law.name}_delays": (law.label, str) for law in DELAY_LAWS.values()},
    "copies": ("copies beside the latest", number(2)),
    "parameters": ("parameters", number(0)),
    "mib": ("float32 MiB", number(3)),
    "delay": ("delay (updates)", str),
}


def for_readers(table: pd.DataFrame, formats: Mapping[str, tuple[str, Format]] | None = None) -> pd.DataFrame:
    """The table as text, with column names and names of networks and strategies for readers."""
    known = {**_COLUMNS, **(formats or {})}
    text = {}
    for column in table:
        name, form = known.get(column, (column.replace("_", " "), str))
        text[name] = [form(value) for value in table[column]]
    return pd.DataFrame(text, dtype=object)


def markdown(table: pd.DataFrame) -> str:
    """A GitHub-flavoured Markdown table of a frame of text."""
    head = "| " + " | ".join(table.columns) + " |\n|" + " --- |" * table.shape[1] + "\n"
    lines = ("| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |\n" for row in table.to_numpy())
    return str(head) + "".join(lines)


LONG, WIDE = 12, 8
"""Rows and columns; a table that has more is folded."""


def folded(table: pd.DataFrame, up: str = "") -> str:
    """The table for a page, folded if it is long or wide; one that is a file (``attrs["csv"]``) has a link to it.

    ``up`` leads from the page to the folder of ``tables``.
    """
    text = markdown(table).rstrip("\n")
    if len(table) > LONG or table.shape[1] > WIDE:
        text = f'<details markdown="1">\n<summary>Table of {len(table)} rows</summary>\n\n{text}\n\n</details>'
    return text + (f"\n\n[CSV]({up}tables/{table.attrs['csv']}.csv)" if "csv" in table.attrs else "")
