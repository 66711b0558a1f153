"""The field's best rows without a stash: joined with an average, or with the latest weights."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from layerpipe2.lab.judging.statistics import holm
from paper_figures.field.page import FIELD, JOINED, SETUPS, between, bootstrapped, field, label, two_sided, with_rows
from paper_figures.field.tables import interval
from paper_figures.records import Records
from paper_figures.text import listed, network_label, span

_LEVEL = 0.05


@field.value
def without_stash(joined: Mapping[str, Records], found: Mapping[str, Records]) -> pd.DataFrame:
    """A row per optimizer, network and mitigation that is joined with a history of fewer copies.

    Returns:
        Columns setup, network, row, n (pairs with stash), diverged, cost (sequential minus row, points), gain (row
        minus stash), own (row minus the same mitigation with a stash), each with its ``_low`` and ``_high``, p (of the
        gain, Holm-adjusted within an optimizer), copies and saved (copies fewer than with a stash).
    """
    rows = [one for name, records in joined.items() for one in _rows(name, records, found)]
    ends = [f"{name}{end}" for name in ("cost", "gain", "own") for end in ("", "_low", "_high")]
    columns = ["setup", "network", "row", "n", "diverged", *ends, "p", "copies", "saved"]
    table = pd.DataFrame(rows, columns=columns)
    for _, family in table.groupby("setup"):
        table.loc[family.index, "p"] = holm(family["p"].to_numpy(dtype=float))
    return table


def _rows(name: str, records: Records, found: Mapping[str, Records]) -> list[dict[str, object]]:
    """Those of one optimizer; the mitigations with a stash have the same seeds, in the experiment that is named so."""
    stem = name.removeprefix(JOINED)
    new = with_rows(records.runs)
    names = [row for row in dict.fromkeys(new["row"]) if "+" in row]
    parts = [new] + ([with_rows(found[FIELD + stem].runs)] if FIELD + stem in found else [])
    every = pd.concat(parts).drop_duplicates(["network", "row", "seed"])
    rows = []
    for network, runs in every.groupby("network", sort=False):
        copies = runs.groupby("row")["history_copies"].first()
        for row in names:
            plain = row.partition("+")[0]
            differences = {
                "cost": -between(runs, row, SEQUENTIAL),
                "gain": between(runs, row, STASH),
                "own": between(runs, row, plain),
            }
            gain = differences["gain"]
            lost = int((runs[runs["row"] == row]["status"] == "diverged").sum())
            made: dict[str, object] = {"setup": SETUPS[stem], "network": network, "row": row, "n": len(gain)}
            made |= {"diverged": lost, "copies": copies[row], "saved": copies.get(plain, np.nan) - copies[row]}
            made |= {"p": two_sided(gain) if len(gain) > 1 else np.nan}
            for key, values in differences.items():
                low, high = bootstrapped(values)
                mean = values.mean() if len(values) else np.nan
                made |= {key: mean, f"{key}_low": low, f"{key}_high": high}
            rows.append(made)
    return rows


def without_stash_for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """The same as text."""
    rows = [
        {
            "optimizer": r.setup,
            "network": network_label(r.network),
            "row": label(str(r.row)),
            "minus sequential": interval(-r.cost, -r.cost_high, -r.cost_low),
            "minus stash": interval(r.gain, r.gain_low, r.gain_high),
            "minus the same with a stash": interval(r.own, r.own_low, r.own_high),
            "p": "–" if pd.isna(r.p) else f"{r.p:.2g}",
            "n": str(r.n),
            "diverged": str(r.diverged),
            "copies": f"{r.copies:.2f}",
        }
        for r in table.itertuples()
    ]
    return pd.DataFrame(rows, dtype=object)


field.table("without_stash", shown=without_stash_for_readers)(lambda without_stash: without_stash)


@field.value
def joined_answer(without_stash: pd.DataFrame) -> str:
    """The joined rows that are shown to gain over exact stashing, and in how many cells; empty without runs."""
    if not len(without_stash):
        return ""
    table = without_stash.assign(
        better=(without_stash["p"] < _LEVEL) & (without_stash["gain"] > 0) & (without_stash["diverged"] == 0)
    )
    said = [_shown(str(row), own) for row, own in table.groupby("row", sort=False) if own["better"].any()]
    return listed(said) if said else f"none in {len(table)} comparisons"


def _shown(row: str, own: pd.DataFrame) -> str:
    better = own[own["better"]]
    gains = span(better["gain"], lambda points: f"{points:+.1f}")
    copies = span(better["copies"], lambda number: f"{number:.1f}")
    return f"{label(row)} in {len(better)} of {len(own)} cells ({gains} points, {copies} copies)"
