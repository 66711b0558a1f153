"""The page's tables: outcomes, the two parts of the cost, and what papers say of their own rows."""

import pandas as pd

from experiments.field.rows import ROWS
from layerpipe2.lab.judging.designs import LATEST, SEQUENTIAL, STASH
from paper_figures.field.page import (
    CELL,
    LAWS,
    SETUPS,
    between,
    bootstrapped,
    field,
    label,
    mean_and_ends,
    setup_of,
    with_rows,
)
from paper_figures.records import Records
from paper_figures.text import network_label


def interval(mean: float, low: float, high: float, digits: int = 1) -> str:
    """``+1.2 [0.3, 2.1]``; the mean alone where there is no interval."""
    if pd.isna(mean):
        return "–"
    return f"{mean + 0.0:+.{digits}f}" + ("" if pd.isna(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def p_value(p: float) -> str:
    """Two digits; a dash if absent."""
    return "–" if pd.isna(p) else f"{p:.2g}"


def for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The outcomes of final runs as text."""
    done = table[table["final"].astype(bool)]
    return pd.DataFrame(
        {
            "law": done["law"],
            "optimizer": done["setup"],
            "network": done["network"].map(network_label),
            "row": [f"{label(row)} (`{name}`)" for row, name in zip(done["row"], done["strategy"], strict=True)],
            "minus sequential": [interval(-r.cost, -r.high, -r.low) for r in done.itertuples()],
            "minus stash": [interval(r.gain, r.gain_low, r.gain_high) for r in done.itertuples()],
            "p": [p_value(p) for p in done["p"]],
            "n": done["n"].astype(str),
            "diverged": [f"{d} of {n}" for d, n in zip(done["diverged"], done["runs"], strict=True)],
            "copies": [f"{copies:.2f}" for copies in done["copies"]],
            "operations": done["operations"].astype(int).astype(str),
        }
    )


@field.table("outcomes", shown=for_readers)
def outcomes_table(outcomes: pd.DataFrame) -> pd.DataFrame:
    """All outcomes with all digits, those of the searches as well."""
    return outcomes


@field.value
def parts(found: dict[str, Records]) -> pd.DataFrame:
    """Both parts of the cost in points: delay (sequential - stash), inconsistency (stash - latest), with intervals."""
    rows = []
    for name, records in found.items():
        runs = with_rows(records.runs)
        for network in records.networks:
            mine = runs[runs["network"] == network]
            without = LATEST if LATEST in set(mine["row"]) else "paci"
            cell = dict(zip(CELL, (*setup_of(name), network), strict=True))
            cell["sequential"] = 100 * mine[mine["row"] == SEQUENTIAL]["test_accuracy"].mean()
            for part, (one, other) in {"delay": (SEQUENTIAL, STASH), "inconsistency": (STASH, without)}.items():
                found_here = between(mine, one, other)
                lost = int(((mine["row"] == other) & (mine["status"] == "diverged")).sum())
                about = mean_and_ends(found_here, "points", "low", "high")
                rows.append(cell | about | {"part": part, "n": len(found_here), "diverged": lost})
    return pd.DataFrame(rows, columns=[*CELL, "sequential", "part", "n", "points", "low", "high", "diverged"])


def parts_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """A row per cell, both parts side by side."""
    said = table.assign(
        text=[
            interval(r.points, r.low, r.high) + (f", {r.diverged} diverged" if r.diverged else "")
            for r in table.itertuples()
        ],
        sequential=table["sequential"].map("{:.1f} %".format),
    )
    wide = (
        said.pivot(index=[*CELL, "sequential"], columns="part", values="text")
        .reindex(columns=["delay", "inconsistency"])
        .reset_index()
    )
    wide["network"] = wide["network"].map(network_label)
    order = {name: place for place, name in enumerate((*LAWS.values(), *SETUPS.values()))}
    return wide.sort_values(["law", "setup"], key=lambda c: c.map(order), kind="stable").rename(
        columns={"setup": "optimizer"}
    )


field.table("parts", shown=parts_for_readers)(lambda parts: parts)


@field.table("papers")
def papers(final: pd.DataFrame, found: dict[str, Records]) -> pd.DataFrame:
    """Each row against what its paper starts from: the latest weights where it has no stash, else the stash."""
    rows = []
    for row in [name for name in dict.fromkeys(final["row"]) if name in ROWS and name != "paci"]:
        other = LATEST if ROWS[row].touches == "inconsistency" else ROWS[row].backward or STASH
        mine = final[final["row"] == row]
        shown = [_beside(found, name, row, other) for name in found]
        low = [one for some in shown for one in some]
        better, worse = sum(a > 0 for a, _ in low), sum(b < 0 for _, b in low)
        rows.append(
            {
                "row": label(row),
                "source": ROWS[row].source,
                "should gain over": label(other),
                "cells": str(len(mine)),
                "does": str(better),
                "loses": str(worse),
                "not shown": str(len(low) - better - worse),
            }
        )
    return pd.DataFrame(rows, columns=["row", "source", "should gain over", "cells", "does", "loses", "not shown"])


def _beside(found: dict[str, Records], name: str, row: str, other: str) -> list[tuple[float, float]]:
    runs = with_rows(found[name].runs)
    cells = [mine for _, mine in runs.groupby("network") if {row, other} <= set(mine["row"])]
    return [bootstrapped(between(mine, row, other)) for mine in cells]
