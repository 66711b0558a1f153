"""The tables of an assay: what delay and inconsistency cost in every cell, and what each strategy wins back."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures.claims.assay import Assay, in_place_of_a_verdict
from paper_figures.claims.training import share_text
from paper_figures.style import labels
from paper_figures.text import number


def costs(found: Assay) -> pd.DataFrame:
    """A row per cell for readers: both costs with their intervals, and whether a verdict is possible."""
    rows = [
        {
            "cell": row["cell"],
            "n": row["seeds"],
            "unit": row["unit"],
            "margin": number(2)(row["margin"]),
            "sequential": score(row["whole"]),
            "stash": score(row["reached"]),
            "the delay costs": interval(row["delay"], row["delay_low"], row["delay_high"]) + _few(row),
            "no history costs": interval(row["inconsistency"], row["inconsistency_low"], row["inconsistency_high"]),
            "stash diverged": f"{row['diverged_stash']} of {row['seeds']}",
            "latest diverged": f"{row['diverged_latest']} of {row['seeds']}",
            "a verdict is": in_place_of_a_verdict(row) or "possible",
        }
        for row in found.costs.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


def _few(row: Mapping[str, Any]) -> str:
    """The number of seeds with a baseline, where it is not that of the cell."""
    return "" if row["delay_n"] in (0, row["seeds"]) else f" (n={row['delay_n']})"


def rules(found: Assay) -> pd.DataFrame:
    """A row per cell and strategy for readers."""
    rows = [
        {
            "cell": row["cell"],
            "strategy": find_strategy(row["strategy"]).label,
            "n": row["n"],
            "unit": row["unit"],
            "diverged alone": row["lost"],
            "against stash": interval(row["mean"], row["low"], row["high"]) if row["n"] > 1 else "–",
            **({"test-image error (points)": _image_error(row)} if "image_error" in row else {}),
            "share won back (%)": share_text(row).replace(" %", "") or "–",
            "outcome": in_place_of_a_verdict(row) or row["outcome"],
        }
        for row in found.rules.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


def _image_error(row: Mapping[str, Any]) -> str:
    return number(2)(row["image_error"]) if row["unit"] == "points" else "–"


def verdicts(found: Assay) -> pd.DataFrame:
    """Strategies by cells: the share won back and the outcome, where a verdict is possible."""
    names = ordered(found.rules["strategy"])
    known = {(row["cell"], row["strategy"]): _verdict(row) for row in found.rules.to_dict("records")}
    columns = {cell: [known.get((cell, name), "–") for name in names] for cell in found.costs["cell"]}
    return pd.DataFrame({"strategy": labels(names)} | columns, dtype=object)


def _verdict(row: Mapping[str, Any]) -> str:
    if words := in_place_of_a_verdict(row):
        return words
    return ": ".join(filter(None, [share_text(row), row["outcome"]]))


def score(value: float) -> str:
    """A mean score: per cent of test accuracy, or nats of test loss, which are counted negative; a dash if absent."""
    return number(2)(abs(value))


def interval(mean: float, low: float, high: float) -> str:
    """``+1.20 [+0.40, +2.00]``; a dash if there is none."""
    values = (round(value, 2) + 0.0 for value in (mean, low, high))  # no -0.00
    return "–" if mean != mean else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*values)
