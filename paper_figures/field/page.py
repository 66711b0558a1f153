"""The page of the field: every mitigation of a late gradient, under one budget."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.field.operations import operations
from experiments.field.rows import ROWS, common_optimizers
from layerpipe2.lab.judging.designs import SEQUENTIAL, STASH
from layerpipe2.lab.judging.statistics import Floats, holm, paired
from layerpipe2.strategies import find_strategy
from paper_figures import records as training
from paper_figures.page import Page
from paper_figures.read import TableForm, read_table
from paper_figures.records import Records

field = Page("field")
FIELD = "field-"
"""What the names of its experiments begin with."""
JOINED = f"{FIELD}joined-"
"""What the names of the experiments begin with in which rows do without a stash."""
RATE = f"{FIELD}rate-"
"""What the names of checks begin with: exact stashing at the rate of the rows, where its own search chose badly."""
LANGUAGE = "evidence-nanogpt-"
"""What the names of the experiments with a language model begin with; its number of stages follows."""
BASELINES = (STASH, "latest", "ema-span", "pair")
SETUPS = {
    "momentum": "SGD with momentum",
    "adamw": "AdamW",
    "nadam": "NAdam 0.99",
    "muon": "Muon",
    "rotated": "basis rotation",
    "look-ahead": "look-ahead",
    "accumulate": "momentum, 4 per update",
}
"""Experiment -> how its weights are updated, for readers."""
LAWS = {"": "2S", "-one": "1", "-amdp": "AMDP"}
"""End of an experiment's name -> its delay law."""
_LEVEL = 0.05
_DRAWS = 10_000
_TRIALS = TableForm(["network", "strategy", "seed", "status", "lr", "val_accuracy"], optional=["val_accuracy"])
CELL = ["law", "setup", "network"]
CHECK = "stash at the rows' rate"


@field.records
def load(results: Path) -> dict[str, Any]:
    """Read what is collected of the experiments, and the searches that have ended; there may be none.

    Raises:
        UserError: if a table is broken.
    """
    folder, remedy = results / "evidence", "run: python -m experiments.tune"
    found = {path.parent.name: training.load(path) for path in sorted(folder.glob(f"{FIELD}*/tables"))}
    trials = {
        path.parent.name: read_table(path, _TRIALS, remedy) for path in sorted(folder.glob(f"{FIELD}*/tuning.csv"))
    }
    joined = {name: found.pop(name) for name in list(found) if name.startswith(JOINED)}
    checks = {FIELD + name.removeprefix(RATE): found.pop(name) for name in list(found) if name.startswith(RATE)}
    trials = {name: one for name, one in trials.items() if not name.startswith((JOINED, RATE))}
    language = [training.load(path) for path in sorted(folder.glob(f"{LANGUAGE}*/tables"))]
    return {"found": found, "trials": trials, "joined": joined, "checks": checks, "language": language}


def setup_of(name: str) -> tuple[str, str]:
    """The delay law and the way of updating of an experiment."""
    stem = name.removeprefix(FIELD).replace("amdp", "accumulate-amdp")
    end = next(end for end in sorted(LAWS, reverse=True) if stem.endswith(end))
    return LAWS[end], SETUPS[stem.removesuffix(end)]


def row_name(strategy: str) -> str:
    """A strategy's name without the numbers of its rows."""
    bases = [(part, part.rpartition("-")[0]) for part in strategy.split("+")]
    return "+".join(base if base in ROWS and ROWS[base].number else part for part, base in bases)


def with_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The table of runs, epochs or trials with a column ``row``: :func:`row_name` of its strategies."""
    return table.assign(row=table["strategy"].map(row_name))


def label(row: str) -> str:
    """A row's name for readers."""
    return " + ".join(ROWS[part].label if part in ROWS else find_strategy(part).label for part in row.split("+"))


def defined(row: str, setup: str) -> bool:
    """Whether a row goes with a way of updating, by what the table of rows says."""
    key = next(name for name, shown in SETUPS.items() if shown == setup)
    optimizer = "sgd" if key in ("momentum", "accumulate") else key
    known = common_optimizers(ROWS[part] for part in row.split("+") if part in ROWS)
    return known is None or optimizer in known


def bootstrapped(differences: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of the mean; none for fewer than three."""
    if len(differences) < 3:
        return math.nan, math.nan
    picks = np.random.default_rng(0).integers(len(differences), size=(_DRAWS, len(differences)))
    low, high = np.quantile(differences[picks].mean(1), [_LEVEL / 2, 1 - _LEVEL / 2])
    return float(low), float(high)


def mean_and_ends(differences: Floats, mean: str, low: str = "", high: str = "") -> dict[str, float]:
    """The mean and its :func:`bootstrapped` interval under these names, or ``mean``, ``mean_low``, ``mean_high``."""
    names = (mean, low or f"{mean}_low", high or f"{mean}_high")
    found = (differences.mean() if len(differences) else math.nan, *bootstrapped(differences))
    return dict(zip(names, found, strict=True))


def two_sided(differences: Floats, least_sd: float = 0.01) -> float:
    """The p-value of Student's t test that the mean is zero, of two and more.

    The least deviation is one test image of 10,000.
    """
    if len(differences) < 2:
        return math.nan
    one_sided = paired(differences, margin=1.0, level=_LEVEL, least_sd=least_sd).p_superior
    return 2 * min(one_sided, 1 - one_sided)


def between(runs: pd.DataFrame, row: str, other: str) -> Floats:
    """Differences of test accuracy, in points, of the seeds with which both have completed."""
    scores = 100 * runs.pivot(index="seed", columns="row", values="test_accuracy").reindex(columns=[row, other])
    return np.asarray((scores[row] - scores[other]).dropna(), dtype=np.float64)


@field.value
def outcomes(
    found: Mapping[str, Records], trials: Mapping[str, pd.DataFrame], checks: Mapping[str, Records]
) -> pd.DataFrame:
    """A row per mitigation, network, law and optimizer.

    Those with final runs have test accuracies; the others validation accuracies of the search, with ``final`` false.

    Returns:
        Columns law, setup, network, row, strategy (with its number), final, n (pairs), diverged, runs, cost (sequential
        minus row, points), low, high (its interval), gain (row minus stash), gain_low, gain_high, p (adjusted), raw_p,
        check, check_low (row minus stash at the rate of a check, and the lower end; absent without one), copies,
        operations (:mod:`experiments.field.operations`).
    """
    rows = [one for name in trials for one in _of_one(name, found.get(name), trials[name], checks.get(name))]
    table = pd.DataFrame(
        rows,
        columns=[
            *CELL,
            "row",
            "strategy",
            "final",
            "n",
            "diverged",
            "runs",
            "cost",
            "low",
            "high",
            "gain",
            "gain_low",
            "gain_high",
            "p",
            "raw_p",
            "check",
            "check_low",
            "copies",
            "operations",
        ],
    )
    order = {law: place for place, law in enumerate(LAWS.values())} | {
        s: place for place, s in enumerate(SETUPS.values())
    }
    table = table.sort_values(["law", "setup"], key=lambda column: column.map(order), kind="stable", ignore_index=True)
    for _, family in table.groupby("setup"):
        table.loc[family.index, "p"] = holm(family["p"].to_numpy(dtype=float))
    return table


def _of_one(name: str, records: Records | None, trials: pd.DataFrame, check: Records | None) -> list[dict[str, Any]]:
    law, setup = setup_of(name)
    done = pd.DataFrame(columns=["network", "row"]) if records is None else with_rows(records.runs)
    found = []
    for network, mine in with_rows(trials).groupby("network", sort=False):
        runs = with_check(done[done["network"] == network], check)
        for row in dict.fromkeys(mine["row"]):
            if row not in (SEQUENTIAL, CHECK):
                final = row in set(runs["row"])
                values = _final(runs, row) if final else _searched(mine, row)
                values["operations"] = operations(
                    str(values["strategy"]), "AdamW" if setup == SETUPS["adamw"] else "SGD"
                )
                found.append({"law": law, "setup": setup, "network": network, "row": row, "final": final} | values)
    return found


def _final(runs: pd.DataFrame, row: str) -> dict[str, Any]:
    own = runs[runs["row"] == row]
    cost, gain = -between(runs, row, SEQUENTIAL), between(runs, row, STASH)
    p = two_sided(gain) if row != STASH else math.nan
    return {
        "strategy": own["strategy"].iloc[0],
        **{"n": len(cost), "diverged": int((own["status"] == "diverged").sum()), "runs": len(own)},
        **mean_and_ends(cost, "cost", "low", "high") | mean_and_ends(gain, "gain"),
        **{"p": p, "raw_p": p} | mean_and_ends(between(runs, row, CHECK), "check"),
        "copies": own["history_copies"].iloc[0],
    }


def with_check(runs: pd.DataFrame, check: Records | None) -> pd.DataFrame:
    """The runs of a network with those of exact stashing at the rate of a check, as row :data:`CHECK`."""
    if check is None or runs.empty:
        return runs
    stash = check.runs[(check.runs["strategy"] == STASH) & check.runs["network"].isin(runs["network"])]
    return pd.concat([runs, stash.assign(row=CHECK)])


def above(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are shown to be better than exact stashing, and never diverged."""
    return (table["p"] < _LEVEL) & (table["gain"] > 0) & (table["diverged"] == 0)


def gains(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are shown to be above exact stashing, at the rate of a check as well."""
    return above(table) & ~(table["check_low"] <= 0)


def loses(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are shown to be below exact stashing, or have diverged."""
    return (table["p"] < _LEVEL) & (table["gain"] < 0) | (table["diverged"] > 0)


def least_gain(table: pd.DataFrame) -> pd.Series:
    """What rows gain over exact stashing, or over that at the rate of a check where this is less, in points."""
    return table[["gain", "check"]].min(axis=1)


def _searched(trials: pd.DataFrame, row: str) -> dict[str, Any]:
    """The trial that was chosen, beside sequential training's and stash's; every trial that diverged is counted."""
    own, alone, stash = (chosen(trials[trials["row"] == name]) for name in (row, SEQUENTIAL, STASH))
    mine = trials[trials["row"] == row]
    lost = int((mine["status"] == "diverged").sum())
    return {
        "strategy": own["strategy"].iloc[0] if len(own) else row,
        **{"n": len(own), "diverged": lost, "runs": len(mine), "copies": math.nan},
        **dict.fromkeys(("p", "raw_p", "check", "check_low"), math.nan),
        "cost": 100 * (alone["val_accuracy"].mean() - own["val_accuracy"].mean()),
        "gain": 100 * (own["val_accuracy"].mean() - stash["val_accuracy"].mean()),
    }


def chosen(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of one strategy with the settings that have the best mean, where none diverged; none if all have."""
    whole = trials.groupby(["strategy", "lr"]).filter(lambda same: bool((same["status"] == "completed").all()))
    if whole.empty:
        return whole
    best = whole.groupby(["strategy", "lr"])["val_accuracy"].mean().idxmax()
    return whole[(whole["strategy"] == best[0]) & (whole["lr"] == best[1])]


@field.value
def final(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcomes with runs of their own."""
    return outcomes[outcomes["final"].astype(bool)]


@field.value
def laws(outcomes: pd.DataFrame) -> list[str]:
    """The delay laws with rows enough for a picture."""
    return [str(law) for law, mine in outcomes.groupby("law", sort=False) if mine["row"].nunique() >= len(BASELINES)]


@field.value
def state(found: Mapping[str, Records], trials: Mapping[str, pd.DataFrame]) -> list[str]:
    """How much of each experiment there is, and how narrowly the search has chosen."""
    return [_state(name, found.get(name), runs) for name, runs in trials.items()]


def _state(name: str, records: Records | None, trials: pd.DataFrame) -> str:
    law, setup = setup_of(name)
    said = f"{setup}, law {law}: {len(trials)} runs of the search"
    if records is None:
        return said
    said += f", {records.experiment['finished']} of {records.experiment['planned']} final runs"
    margin = cut(trials, set(with_rows(records.runs)["row"]))
    return said if math.isnan(margin) else f"{said}; last in the front to first outside it: {margin:.2f} points"


def cut(trials: pd.DataFrame, front: set[str]) -> float:
    """Mean validation accuracy, in points, of the last mitigation in the front minus that of the first outside it."""
    trials = with_rows(trials)
    trials = trials[~trials["row"].isin([SEQUENTIAL, *BASELINES])]
    cells = {key: chosen(mine)["val_accuracy"].mean() for key, mine in trials.groupby(["row", "network"])}
    means = pd.Series(cells, dtype=float).groupby(level=0).agg(lambda both: both.mean(skipna=False))
    inside = means.index.isin(front)
    return float(100 * (means[inside].min() - means[~inside].max()))
