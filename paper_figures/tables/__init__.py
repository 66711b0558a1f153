"""Tables for readers: pure functions from data frames to data frames of text, and from those to Markdown."""

from collections.abc import Mapping

import pandas as pd

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.strategies import find_strategy
from paper_figures.text import Format, network_label, number, significant

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
