"""Can these runs tell a good weight history from none, and if so, what is each reconstruction worth?

A test of equivalence that its own control passes decides nothing. So every cell (network, data, optimizer, stages,
delay law, choice of the rate) has three costs first, paired by seed, in points of test accuracy or nats of test loss:

delay          sequential - stash: what late gradients cost, whatever the backward pass uses
inconsistency  stash - latest: what is lost without any history; all that a history can win back
share          (rule - latest) / (stash - latest): what a rule wins back of that, with Fieller's interval

A cell is *sensitive* if its inconsistency is shown to exceed the margin (one-sided t test, Holm's correction over the
cells). Only there a rule is judged. Where it is shown to be less than the margin, a history is *needless*; elsewhere
nothing can be told. A run that diverged scores what guessing does: it is a cost, and no gap in the table. One that
ended hardly above that has diverged as well, only without an overflow. Guessing gives one answer to every question: its
accuracy is one over the number of classes, and its loss is measured from how often each class comes. A few divergences
among many runs are costs that scatter; it takes some seeds to show that they are no accident.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from layerpipe2.lab.data import describe
from layerpipe2.lab.judging import share_rule
from layerpipe2.lab.judging.comparisons import ComparisonSettings, compare, pairs
from layerpipe2.lab.judging.designs import ALONE, CELL, LATEST, LEARNT, SEQUENTIAL, STASH, paired_scores, rows_with
from layerpipe2.lab.judging.statistics import Ratio, holm, paired, seeds_needed
from layerpipe2.lab.looks import ordered

_HARDLY = 1.2
"""Times the accuracy of guessing: a network that gives one class whatever it sees, reaches no more."""


def judge(
    runs: pd.DataFrame, settings: ComparisonSettings, examples: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Costs of all cells of an experiment, and every other strategy in each: see :func:`costs` and :func:`rules`.

    With a least share: see :mod:`layerpipe2.lab.judging.share_rule`.
    """
    known = scored(runs, settings)
    if settings.least_share is not None:
        about = share_rule.costs(known, settings)
        table = share_rule.rules(known, about, settings)
    else:
        about = costs(known, settings, examples)
        table = rules(known, about, settings, examples)
    places = {name: place for place, name in enumerate(ordered(table["strategy"]))}
    return about, table.sort_values("strategy", key=lambda s: s.map(places), kind="stable", ignore_index=True)


def won_back(row: Mapping[str, Any]) -> Ratio | None:
    """What a strategy wins back of the inconsistency of its cell, a row of :func:`rules`.

    Nothing can be said where no history isn't shown to cost more than the margin, of the latest weights themselves, and
    where the interval has no ends.
    """
    found = Ratio(row["share"], row["share_low"], row["share_high"])
    told = row["sensitive"] and row["strategy"] != LATEST and math.isfinite(found.low + found.high)
    return found if told else None


def shares(runs: pd.DataFrame, settings: ComparisonSettings, examples: pd.DataFrame | None = None) -> pd.Series:
    """What the strategy of every run wins back in its cell, as a fraction; NaN where that isn't told.

    Of several runs with one cell, strategy and seed the first one counts.
    """
    key = [*CELL, "strategy"]
    _, table = judge(runs.drop_duplicates([*key, "seed"]), settings, examples)
    told = {tuple(row[name] for name in key): won.value for row in table.to_dict("records") if (won := won_back(row))}
    return pd.Series([told.get(cell) for cell in runs[key].itertuples(index=False, name=None)], runs.index, float)


def scored(runs: pd.DataFrame, settings: ComparisonSettings) -> pd.DataFrame:
    """The runs of every cell, :func:`with_scores`: those of stash are also in the cells that share its rate."""
    return with_scores(pd.concat([runs, *_stash_at_common_rate(runs)], ignore_index=True), settings)


def with_scores(runs: pd.DataFrame, settings: ComparisonSettings) -> pd.DataFrame:
    """The runs with ``score`` (higher is better, in the unit of the margin) and ``guess``, the score of guessing.

    The status of those that ended hardly above that is ``diverged``: of accuracies a fifth, of losses the margin.
    """
    if settings.guess:
        score, guess = -runs["test_loss"], -runs["dataset"].map(settings.guess)
        hardly = guess + settings.margin
    else:
        score, guess = 100 * runs["test_accuracy"], 100 / runs["dataset"].map(lambda name: describe(name).num_classes)
        hardly = _HARDLY * guess
    lost = (score <= hardly) | (runs["status"] == "diverged")
    return runs.assign(score=score.mask(lost), guess=guess, status=runs["status"].mask(lost, "diverged"))


def _stash_at_common_rate(runs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The runs of stash for cells in which all have its rate and it has none of its own: the tuned ones."""
    where = [name for name in CELL if name != "rate"]
    common = runs[runs["rate"] == "common"]
    own = common[common["strategy"] == STASH]
    missing = set(map(tuple, common[where].to_numpy())) - set(map(tuple, own[where].to_numpy()))
    stash = runs[(runs["strategy"] == STASH) & (runs["rate"] == "tuned")]
    found = stash[[key in missing for key in map(tuple, stash[where].to_numpy())]]
    if len(found):
        yield found.assign(rate="common")


def costs(runs: pd.DataFrame, settings: ComparisonSettings, examples: pd.DataFrame | None = None) -> pd.DataFrame:
    """The costs of every cell that has runs of stash and of the latest weights, with two seeds or more.

    Returns:
        Columns :data:`CELL`, seeds; ``delay`` and ``inconsistency`` with their ends ``_low``, ``_high`` (1 - 2 level
        intervals over seeds); ``delay_n``; diverged_stash, diverged_latest (runs); the mean scores of sequential
        training, ``whole``, and of stash, ``reached``; trained: whether stash gains half as much over guessing as
        sequential training does at its best rate; sensitive, needless and their p_sensitive, p_needless (Holm over the
        cells).
    """
    rows = [dict(zip(CELL, key, strict=True)) | found for key, found in _all_costs(runs, settings)]
    columns = [*CELL, "seeds", "diverged_stash", "diverged_latest", "trained", "p_sensitive", "p_needless"]
    columns += [f"{name}{end}" for name in ("delay", "inconsistency") for end in ("", "_low", "_high")] + ["delay_n"]
    columns += ["whole", "reached", "sd"]
    table = pd.DataFrame(rows, columns=columns)
    for name in ("p_sensitive", "p_needless"):
        table[name] = holm(table[name].mask(~table["trained"].astype(bool)).to_numpy(dtype=float))
    shown, needless = table["p_sensitive"] < settings.level, table["p_needless"] < settings.level
    beyond = (table["inconsistency"] - settings.margin).abs()
    if settings.image_guard:
        errors = _image_errors(runs, table, settings, examples)
        shown &= table["inconsistency"] - errors > settings.margin
        needless &= table["inconsistency"] + errors < settings.margin
        beyond = (beyond - errors).clip(lower=0)
    needs = [seeds_needed(far, sd, level=settings.level) for far, sd in zip(beyond, table["sd"], strict=True)]
    return table.drop(columns="sd").assign(sensitive=shown, needless=needless, needs=needs)


def _image_errors(
    runs: pd.DataFrame, table: pd.DataFrame, settings: ComparisonSettings, examples: pd.DataFrame | None
) -> pd.Series:
    """About how far every cell's inconsistency would move with other test images; 0 if latest diverged in all runs."""
    found = _pairs(runs[runs["strategy"].isin([STASH, LATEST])], settings, examples)
    compared = compare(found, list(CELL), settings)[[*CELL, "image_error"]]
    return table[list(CELL)].merge(compared, on=list(CELL), how="left")["image_error"].fillna(0.0)


def _all_costs(runs: pd.DataFrame, settings: ComparisonSettings) -> Iterator[tuple[Any, dict[str, Any]]]:
    alone = runs[runs["strategy"] == SEQUENTIAL]
    for key, cell in runs[runs["num_stages"] > 1].groupby(list(CELL), sort=False):
        both = paired_scores(_finite(cell), STASH, LATEST)
        if len(both) > 1:
            mine = rows_with(alone, {name: value for name, value in zip(CELL, key, strict=True) if name in ALONE})
            yield key, _costs(cell, both, _baseline(mine, key[CELL.index("rate")]), _best(mine), settings)


def _costs(
    cell: pd.DataFrame, both: pd.DataFrame, baseline: pd.Series, best: float, settings: ComparisonSettings
) -> dict[str, Any]:
    guess = float(cell["guess"].iloc[0])
    mine = cell[cell["seed"].isin(both.index)]
    lost = mine[mine["status"] == "diverged"].groupby("strategy").size()
    found: dict[str, Any] = {"seeds": len(both)}
    found |= {f"diverged_{name}": int(lost.get(name, 0)) for name in (STASH, LATEST)}
    delay = (baseline - both[STASH]).dropna()
    found |= {"delay_n": len(delay)} | _interval("delay", delay, settings)
    gap = both[STASH] - both[LATEST]
    found |= _interval("inconsistency", gap, settings)
    least = 0.0 if settings.unit == "nats" else 100 / float(cell["test_images"].iloc[0])
    tested = paired(gap, margin=settings.margin, level=settings.level, least_sd=least)
    found |= {"p_sensitive": tested.p_better, "p_needless": 1 - tested.p_better, "sd": tested.sd}
    reached = float(both[STASH].mean())
    found |= {
        "whole": float(baseline.mean()),
        "reached": reached,
        "trained": not reached - guess < LEARNT * (best - guess),
    }
    return found


def _interval(name: str, values: pd.Series, settings: ComparisonSettings) -> dict[str, float]:
    about = paired(values, margin=settings.margin, level=settings.level)
    return {name: about.mean, f"{name}_low": about.low, f"{name}_high": about.high}


def _baseline(alone: pd.DataFrame, rate: str) -> pd.Series:
    """Scores of sequential training by seed: with the cell's rate, or else with its own."""
    same = alone[alone["rate"] == rate]
    mine = same if len(same) else alone[alone["rate"] == "tuned"]
    return _finite(mine).set_index("seed")["score"]


def _best(alone: pd.DataFrame) -> float:
    """The mean score of sequential training at its best rate."""
    return float(_finite(alone).groupby("rate")["score"].mean().max())


def _finite(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs; what diverged has the score of guessing."""
    return runs.assign(score=runs["score"].fillna(runs["guess"]))


def rules(
    runs: pd.DataFrame, about: pd.DataFrame, settings: ComparisonSettings, examples: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Every other strategy against stash, in every cell of :func:`costs`.

    Args:
        runs: from :func:`scored`.
        about: from :func:`costs`.
        settings: margin and level.
        examples: spread of the differences over test examples, for the error from the choice of the examples.

    Returns:
        Columns :data:`CELL`, strategy, those of :func:`layerpipe2.lab.judging.comparisons.compare` (Holm over all rules
        of all sensitive cells), sensitive, needless, trained, and the share won back: ``share``, ``share_low``,
        ``share_high``.
    """
    keys = list(CELL)
    known = runs.merge(about[[*keys, "sensitive"]], on=keys)
    found = _pairs(known, settings, examples)
    # The control has its own test, in costs(): in a sensitive cell it is shown to lose.
    control = found["strategy"] == LATEST
    families = [
        (control & found["sensitive"], True),
        (~control & found["sensitive"], True),
        (~found["sensitive"], False),
    ]
    tables = [compare(found[mine], [*CELL, "strategy"], settings).assign(sensitive=value) for mine, value in families]
    tables[0]["outcome"] = tables[0]["outcome"].where(tables[0]["outcome"] == "diverged", "worse")
    table = pd.concat([t for t in tables if len(t)] or tables[:1])
    cells = [_finite(rows_with(known, {name: row[name] for name in CELL})) for row in table.to_dict("records")]
    won = [share_rule.share(*places, settings.level) for places in zip(cells, table["strategy"], strict=True)]
    table = table.assign(share=[w.value for w in won], share_low=[w.low for w in won], share_high=[w.high for w in won])
    return table.merge(about[[*keys, "needless", "trained"]], on=keys, how="left")


def _pairs(runs: pd.DataFrame, settings: ComparisonSettings, examples: pd.DataFrame | None) -> pd.DataFrame:
    """Pairs with stash; of losses in nats it isn't known how test images spread them."""
    found = pairs(runs, examples)
    return found.assign(variance=0.0, image=0.0) if settings.unit == "nats" else found
