"""The same cells trained for longer, until stashing has moved as far as sequential training does in the short runs."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from paper_figures.accuracy.assay import Assay, interval, score
from paper_figures.accuracy.evidence import LONG, evidence
from paper_figures.records import Records
from paper_figures.text import percent

_PART = 3
"""A cost is asked to fall to one in so many."""
_COSTS = {"delay": "the delay costs", "inconsistency": "no history costs"}


@evidence.value
def longer(found: Mapping[str, Records], assays: Mapping[str, Assay]) -> dict[str, Any] | None:
    """A table with two rows per pair of a short and a long experiment, and what the costs fall to; None without any."""
    pairs = {name.removesuffix(LONG): name for name in found if name.endswith(LONG)}
    rows, said = [], []
    for pair in pairs.items():
        short, long = (_row(found[name], assays[name]) for name in pair)
        rows += [short, long]
        said += [fall(short, long, cost) for cost in _COSTS]
    return {"table": pd.DataFrame([_readable(row) for row in rows], dtype=object), "said": said} if rows else None


def _row(records: Records, assay: Assay) -> dict[str, Any]:
    """The one cell of an experiment in which each strategy has its own rate, and how far its runs move."""
    (cell,) = assay.without(rate="common").costs.to_dict("records")
    runs = records.runs[records.runs["rate"] != "common"]
    epochs = int(records.epochs["epoch"].max()) + 1
    rates = {name: float(runs.loc[runs["strategy"] == name, "lr"].median()) for name in (SEQUENTIAL, STASH)}
    made: dict[str, Any] = cell | {"epochs": epochs, "moves": {name: rate * epochs for name, rate in rates.items()}}
    return made


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    costs = {title: interval(*_ends(row, cost)) for cost, title in _COSTS.items()}
    return {
        "cell": row["cell"],
        "epochs": row["epochs"],
        "n": row["seeds"],
        "rate × epochs, sequential": f"{row['moves'][SEQUENTIAL]:.2g}",
        "rate × epochs, stash": f"{row['moves'][STASH]:.2g}",
        "sequential": score(row["whole"]),
        "stash": score(row["reached"]),
        **costs,
        "latest diverged": f"{row['diverged_latest']} of {row['seeds']}",
    }


def fall(short: Mapping[str, Any], long: Mapping[str, Any], cost: str) -> str:
    """Whether a cost is shown to fall to a third, by both intervals."""
    (mean, low, high), (longer, least, most) = _ends(short, cost), _ends(long, cost)
    below, above = most < low / _PART, least > high / _PART
    word = "shown to be" if below else "shown not to be" if above else "not shown to be, nor not to be,"
    share = percent(longer / mean) if mean > 0 else "an undefined share"
    what = (
        f"{short['cell']}, {long['epochs']} instead of {short['epochs']} epochs: what {_COSTS[cost].split(' cost')[0]}"
    )
    return f"{what} costs is {share} of before, {word} below a third."


def _ends(row: Mapping[str, Any], cost: str) -> tuple[float, float, float]:
    return row[cost], row[f"{cost}_low"], row[f"{cost}_high"]


evidence.table("longer", shown=None, when=lambda longer: longer is not None)(lambda longer: longer["table"])
