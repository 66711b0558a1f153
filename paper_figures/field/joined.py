"""The field's best rows without a stash: joined with an average, or with the latest weights."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from layerpipe2.lab.judging.statistics import holm
from paper_figures.field.page import (
    CHECK,
    FIELD,
    JOINED,
    SETUPS,
    between,
    field,
    gains,
    label,
    least_gain,
    loses,
    mean_and_ends,
    two_sided,
    with_check,
    with_rows,
)
from paper_figures.field.tables import interval, p_value
from paper_figures.records import Records
from paper_figures.text import network_label, span

_DIFFERENCES = ("cost", "gain", "own", "bare")


@field.value
def without_stash(
    joined: Mapping[str, Records], found: Mapping[str, Records], checks: Mapping[str, Records], final: pd.DataFrame
) -> pd.DataFrame:
    """A row per optimizer, network and mitigation that is joined with a history of fewer copies.

    Returns:
        Columns setup, network, row, n (pairs with stash), diverged, cost (sequential minus row, points), gain (row
        minus stash), own (row minus the same mitigation with a stash), bare (row minus its history alone), each with
        its ``_low`` and ``_high``; p of the gain, Holm-adjusted over these rows and all others of the optimizer; check
        and check_low as those of the outcomes; copies and saved (copies fewer than with a stash).
    """
    rows = [one for name, records in joined.items() for one in _rows(name, records, found, checks)]
    ends = [f"{name}{end}" for name in _DIFFERENCES for end in ("", "_low", "_high")]
    columns = ["setup", "network", "row", "n", "diverged", *ends, "p", "check", "check_low", "copies", "saved"]
    table = pd.DataFrame(rows, columns=columns)
    for setup, own in table.groupby("setup"):
        others = final[final["setup"] == setup]["raw_p"].dropna()
        family = holm(np.concatenate([own["p"].to_numpy(dtype=float), others.to_numpy(dtype=float)]))
        table.loc[own.index, "p"] = family[: len(own)]
    return table


def _rows(
    name: str, records: Records, found: Mapping[str, Records], checks: Mapping[str, Records]
) -> list[dict[str, object]]:
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
            plain, _, history = row.partition("+")
            others = (SEQUENTIAL, STASH, plain, history)
            differences = {key: between(runs, row, other) for key, other in zip(_DIFFERENCES, others, strict=True)}
            differences["cost"] = -differences["cost"]
            gain = differences["gain"]
            lost = int((runs[runs["row"] == row]["status"] == "diverged").sum())
            made: dict[str, object] = {"setup": SETUPS[stem], "network": network, "row": row, "n": len(gain)}
            made |= {"diverged": lost, "copies": copies[row], "saved": copies.get(plain, np.nan) - copies[row]}
            differences["check"] = between(with_check(runs, checks.get(FIELD + stem)), row, CHECK)
            made |= {"p": two_sided(gain)}
            for key, values in differences.items():
                made |= mean_and_ends(values, key)
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
            "minus the history alone": interval(r.bare, r.bare_low, r.bare_high),
            "p": p_value(r.p),
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
    """In how many cells each joined row is shown to gain over exact stashing, or to lose; empty without runs."""
    if not len(without_stash):
        return ""
    table = without_stash.assign(better=gains, worse=loses, points=least_gain)
    groups = [(str(row), own) for row, own in table.groupby("row", sort=False)]
    said = [_shown(row, own) for row, own in groups if (own["better"] | own["worse"]).any()]
    return "; ".join(said) if said else f"none in {len(table)} comparisons"


def _shown(row: str, own: pd.DataFrame) -> str:
    parts = [
        f"{word} in {len(some)} of {len(own)} cells"
        + (f" ({span(some['points'], _points)} points)" if len(some) else "")
        for word, some in (("gains", own[own["better"]]), ("loses", own[own["worse"]]))
    ]
    return f"{label(row)} ({span(own['copies'], lambda number: f'{number:.1f}')} copies) {', '.join(parts)}"


def _points(value: float) -> str:
    return f"{value:+.1f}"
