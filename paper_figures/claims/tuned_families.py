"""The families of comparisons of a tuned experiment. Each is corrected by itself (Holm), and paired by seed.

The accuracies are those on the published test set, the same for all runs. The tests are about this set: seeds are the
units. How far another one of the same size might move a difference is shown beside it (``image_error``, an upper bound;
of a text, whole windows are the images).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from layerpipe2.history import Strategy, find_strategy
from paper_figures.comparisons import COLUMNS, Settings, compare, pairs
from paper_figures.designs import BY_OPTIMIZER, LATEST, SEQUENTIAL, STASH, own, pipeline_aware, untrained
from paper_figures.statistics import trend


def candidates(runs: pd.DataFrame) -> list[str]:
    """The strategies whose weights follow from the delay and the applied updates: the paper's method is among them."""
    names = list(dict.fromkeys(runs["strategy"]))
    return [*pipeline_aware(names), *(name for name in own(names) if not find_strategy(name).warm)]


def reconstructions(runs: pd.DataFrame) -> list[str]:
    """Every strategy that rebuilds weights, in the order of the records; not those with warm-up."""
    rows = map(find_strategy, dict.fromkeys(runs["strategy"]))
    return [row.name for row in rows if row.family in ("average", "pair") and not row.warm]


def left_out(runs: pd.DataFrame) -> str:
    """The pipelines on which stash does not train, with the reason, as text; empty if there are none."""
    texts = []
    for (optimizer, stages), (reached, whole) in untrained(runs, BY_OPTIMIZER).items():
        why = f"{reached:.1%} where sequential training reaches {whole:.1%}"
        texts.append(f"{optimizer} at {stages} stages ({'diverged in every run' if math.isnan(reached) else why})")
    return ", ".join(texts)


def against_stash(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a reconstruction equivalent to exact stashing?"""
    return _compared(runs, reconstructions(runs), STASH, settings)


def against_latest(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a reconstruction superior to the latest weights?"""
    return _compared(runs, reconstructions(runs), LATEST, settings)


def latest_against_stash(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The control: can the experiment tell a strategy without any history from exact stashing?"""
    return _compared(runs, [LATEST], STASH, settings)


def applied_against_raw(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is averaging the applied updates superior to averaging lr x gradient? Rows name the former."""
    raw = {row.name: row.plain for row in _rows(runs) if row.raw and not row.warm}
    return _family([_pairs(runs, [plain], name) for name, plain in raw.items()], settings)


def warm_up_against_none(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a strategy superior after a warm-up with exact weights to itself without?"""
    warm = {row.name: row.cold for row in _rows(runs) if row.warm}
    return _family([_pairs(runs, [name], cold) for name, cold in warm.items()], settings)


def stash_against_sequential(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What the delay itself costs: exact stashing against training without a pipeline."""
    stash = runs[runs["strategy"] == STASH]
    base = runs[runs["strategy"] == SEQUENTIAL]
    copies = [base.assign(num_stages=stages) for stages in sorted(stash["num_stages"].unique())]
    return _family([pairs(pd.concat([stash, *copies]), SEQUENTIAL, BY_OPTIMIZER)], settings)


def trends(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """How the difference to stash changes per additional stage; 1 - level intervals over seeds, not corrected."""
    rows: list[dict[str, Any]] = []
    paired = pairs(runs, STASH, BY_OPTIMIZER)
    for (optimizer, strategy), group in paired.groupby(["optimizer", "strategy"], sort=False):
        if group["num_stages"].nunique() > 1:
            found = trend(group["num_stages"], group["difference"], group["seed"], level=settings.level)
            rows.append({"optimizer": optimizer, "strategy": strategy, **asdict(found)})
    return pd.DataFrame(rows)


def _rows(runs: pd.DataFrame) -> list[Strategy]:
    return [find_strategy(name) for name in sorted(runs["strategy"].unique())]


def _pairs(runs: pd.DataFrame, names: list[str], reference: str) -> pd.DataFrame:
    return pairs(runs[runs["strategy"].isin([*names, reference])], reference, BY_OPTIMIZER)


def _compared(runs: pd.DataFrame, names: list[str], reference: str, settings: Settings) -> pd.DataFrame:
    return _family([_pairs(runs, names, reference)], settings)


def _family(tables: list[pd.DataFrame], settings: Settings) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=[*BY_OPTIMIZER.cell, *COLUMNS, "outcome"])
    return compare(pd.concat(filled, ignore_index=True), BY_OPTIMIZER.cell, settings)
