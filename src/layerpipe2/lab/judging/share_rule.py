"""Does a strategy keep what a weight history is worth? The rule of experiments whose margins are fixed beforehand.

A margin of so many points is little of what is at stake in one cell and half of it in another. So two things are asked
of a strategy, both relative to what the same seeds reached with exact stashing and with the latest weights:

share   (strategy - latest) / (stash - latest), what it wins back of all that a history can win, is above the least one
margin  strategy - stash is above minus the cell's margin: what another seed costs exact stashing (:func:`margins`)

A cell is *sensitive* if the latest weights are shown to lose more than its margin, or to diverge more often than
stashing does; where they are shown to lose less, and didn't diverge more often, a history is *needless*. In sensitive
cells alone a strategy

keeps     if share and margin are both shown (the larger of two p-values), and it isn't shown to diverge more often
loses     if one of them is shown not to hold (twice the smaller p-value)
diverges  if it is shown to diverge in more runs than stashing

Where divergences alone show that a cell is sensitive, the runs of the latest weights that completed say nothing of what
can be won back: there the margin is asked for alone.

Accuracies are those of runs that completed, in points, paired by seed, with Student's t tests (of the share: Fieller
1954); divergences are counted apart, with McNemar's exact test (1947). All are one-sided, corrected by Holm (1979) over
all strategies of all sensitive cells, those of sensitivity over all cells. Every interval is that of the test that
decides: its ends are those of one-sided tests at the level that Holm's correction leaves to its row. Where nothing is
decided it is the wider one of the two tests that could.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import ALONE, CELL, LATEST, LEARNT, SEQUENTIAL, STASH, paired_scores, rows_with
from layerpipe2.lab.judging.searches import chosen_trials
from layerpipe2.lab.judging.statistics import Floats, Paired, Ratio, holm, holm_levels, paired, ratio, seeds_needed

_TESTS = ("keeps", "loses", "diverges")


def margins(trials: pd.DataFrame, least: float) -> dict[str, float]:
    """Network -> the standard deviation of exact stashing between seeds, in hundredths of a point, at least ``least``.

    It comes from the search, before any run that is judged: from the validation accuracies at the rate that was chosen.

    Args:
        trials: as of :func:`layerpipe2.lab.judging.searches.rate_means`.
    """
    networks = dict.fromkeys(trials["network"])
    stash = chosen_trials(trials[trials["strategy"] == STASH]).set_index("network")["spread"]
    return {str(name): max(least, round(100 * float(stash.get(name, 0.0)), 2)) for name in networks}


def costs(runs: pd.DataFrame, settings: ComparisonSettings) -> pd.DataFrame:
    """The costs of every cell that has runs of stash and of the latest weights with two seeds or more.

    Args:
        runs: with ``score`` in points, absent of runs that diverged, and ``guess``, the score of guessing.
        settings: margins, level.

    Returns:
        Columns :data:`CELL`, seeds, margin; ``delay`` (sequential - stash) and ``inconsistency`` (stash - latest) with
        their ends; needs: the seeds with which the second would be shown to lie on its side of the margin, at the level
        that Holm's correction leaves it now;
        diverged_stash, diverged_latest; whole, reached (mean scores of sequential training and stash); trained: whether
        stash gains half as much over guessing as sequential training; p_sensitive, p_diverges, p_needless (Holm over
        the trained cells), sensitive, needless, and shared: sensitive by what the latest weights lose.
    """
    pipelined, alone = runs[runs["num_stages"] > 1], runs[runs["strategy"] == SEQUENTIAL]
    cells = [
        (dict(zip(CELL, key, strict=True)), cell)
        for key, cell in pipelined.groupby(list(CELL), sort=False)
        if len(_seeds(cell, STASH) & _seeds(cell, LATEST)) > 1
    ]
    rows = [key | _costs(cell, _alone(alone, key), settings) for key, cell in cells]
    columns = [*CELL, "seeds", "margin", "delay", "delay_low", "delay_high", "delay_n", "inconsistency"]
    columns += ["diverged_stash", "diverged_latest", "whole", "reached", "trained"]
    columns += ["p_sensitive", "p_diverges", "p_needless"]
    table = pd.DataFrame(rows, columns=columns)
    trained = table["trained"].astype(bool)
    names = ("p_sensitive", "p_diverges", "p_needless")
    raw = {name: table[name].where(trained).to_numpy(dtype=float) for name in names}
    table = table.assign(**{name: holm(raw[name]) for name in names})
    # Two ways to be shown sensitive: each has half of the level.
    half, level = settings.level / 2, settings.level
    shared = table["p_sensitive"] < half
    sensitive = shared | (table["p_diverges"] < half)
    spared = ~sensitive & (table["diverged_latest"] <= table["diverged_stash"])
    table = table.assign(sensitive=sensitive, shared=shared, needless=spared & (table["p_needless"] < level))
    more, less = holm_levels(raw["p_sensitive"], half), holm_levels(raw["p_needless"], level)
    deciding = _deciding(table["shared"], more, table["needless"], less)
    intervals = [_gap(cell, settings, at) for (_, cell), at in zip(cells, deciding, strict=True)]
    beyond = [gap.mean - margin for gap, margin in zip(intervals, table["margin"], strict=True)]
    needed = zip(beyond, intervals, more, less, strict=True)
    table["needs"] = [seeds_needed(abs(far), gap.sd, level=high if far > 0 else low) for far, gap, high, low in needed]
    ends = {"inconsistency_low": [gap.low for gap in intervals], "inconsistency_high": [gap.high for gap in intervals]}
    return table.assign(**ends)


def rules(runs: pd.DataFrame, about: pd.DataFrame, settings: ComparisonSettings) -> pd.DataFrame:
    """Every other strategy against stash, in every cell of :func:`costs`.

    Returns:
        Columns :data:`CELL`, strategy, margin; n: pairs that completed, pairs: all of them, lost, won: runs that
        diverged alone, and those of stash that did; needs: pairs with which it would be decided; mean, sd, low, high of
        the difference; share, share_low, share_high; the adjusted p_keeps, p_loses, p_diverges; outcome; sensitive,
        needless and trained of the cell.
    """
    rows, cells, compared = [], [], []
    for row in about.to_dict("records"):
        cell = rows_with(runs, {name: row[name] for name in CELL})
        of_cell = {name: row[name] for name in (*CELL, *_OF_CELL)}
        for name in cell["strategy"].unique():
            if name != STASH:
                cells.append(cell)
                compared.append(_compared(cell, name, row["margin"], settings))
                rows.append(of_cell | {"strategy": name} | _tested(cell, name, row, *compared[-1]))
    tests = [f"p_{name}" for name in _TESTS]
    table = pd.DataFrame(rows, columns=[*CELL, "strategy", *_OF_CELL, "n", "pairs", "lost", "won", *tests])
    judged = table["sensitive"].astype(bool) & (table["strategy"] != LATEST)  # the control is tested in costs()
    raw = {name: np.where(judged, table[name].to_numpy(dtype=float), np.nan) for name in tests}
    for name in tests:
        table[name] = holm(raw[name])
    table = table.assign(outcome=[_outcome(row, settings) for row in table.to_dict("records")])
    # p_loses is twice a one-sided p-value.
    keeps, loses = (np.nan_to_num(holm_levels(raw[f"p_{n}"], settings.level), nan=settings.level) for n in _TESTS[:2])
    deciding = _deciding(table["outcome"] == "keeps", keeps, table["outcome"] == "loses", loses / 2)
    places = zip(cells, table["strategy"], table["margin"], deciding, strict=True)
    found = pd.DataFrame([_intervals(*place) for place in places], index=table.index, columns=_INTERVALS)
    ways = zip(compared, table["margin"], keeps, loses / 2, strict=True)
    needs = [_seeds_to_decide(*pairs, margin, holds, fails) for pairs, margin, holds, fails in ways]
    table = pd.concat([table, found.assign(needs=needs)], axis=1)
    return _control_of(table, about)


_OF_CELL = ("margin", "sensitive", "needless", "trained")
_INTERVALS = ("mean", "sd", "low", "high", "share", "share_low", "share_high")


def _deciding(above: pd.Series, level_above: Floats, below: pd.Series, level_below: Floats) -> Floats:
    """The level of each row's interval: of the test that showed it, else the smaller one."""
    chosen = np.where(below, level_below, np.minimum(level_above, level_below))
    found: Floats = np.where(above, level_above, chosen)
    return found


def _control_of(rows: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """The latest weights are judged in :func:`costs`; their rows have its intervals."""
    ends = rows[list(CELL)].merge(about, on=list(CELL), how="left")
    latest = (rows["strategy"] == LATEST).to_numpy()
    taken = {"low": -ends["inconsistency_high"], "high": -ends["inconsistency_low"], "needs": ends["needs"]}
    return rows.assign(**{name: np.where(latest, values, rows[name]) for name, values in taken.items()})


def _costs(cell: pd.DataFrame, alone: pd.DataFrame, settings: ComparisonSettings) -> dict[str, Any]:
    margin, guess = settings.margin_of(str(cell["network"].iloc[0])), float(cell["guess"].iloc[0])
    gap = _gap(cell, settings, settings.level)
    lost, won, pairs = _divergences(cell, LATEST)
    failed, whole = cell[cell["score"].isna()], float(alone["score"].mean())
    delay = paired(_delays(cell, alone), margin=margin, level=settings.level)
    reached = float(cell.loc[cell["strategy"] == STASH, "score"].mean())
    return {
        "seeds": pairs,
        "margin": margin,
        **{"delay": delay.mean, "delay_low": delay.low, "delay_high": delay.high, "delay_n": delay.n},
        "inconsistency": gap.mean,
        "diverged_stash": len(_seeds(failed, STASH) & _seeds(cell, LATEST)),
        "diverged_latest": len(_seeds(failed, LATEST)),
        "whole": whole,
        "reached": reached,
        "trained": math.isfinite(reached) and not reached - guess < LEARNT * (whole - guess),
        "p_sensitive": gap.p_better,
        "p_diverges": mcnemar(lost, won),
        "p_needless": 1 - gap.p_better,
    }


def _tested(cell: pd.DataFrame, strategy: str, about: Mapping[str, Any], kept: Paired, above: Paired) -> dict[str, Any]:
    lost, won, pairs = _divergences(cell, strategy)
    found = {"n": kept.n, "pairs": pairs, "lost": lost, "won": won, "p_diverges": mcnemar(lost, won)}
    if about["sensitive"] and not about["shared"]:
        return found | {"p_keeps": kept.p_kept, "p_loses": kept.p_worse}
    told = not math.isnan(kept.p_kept) and not math.isnan(above.p_superior)
    return found | {
        "p_keeps": max(above.p_superior, kept.p_kept) if told else math.nan,
        "p_loses": min(1.0, 2 * min(1 - above.p_superior, kept.p_worse)) if told else math.nan,
    }


def _compared(cell: pd.DataFrame, strategy: str, margin: float, settings: ComparisonSettings) -> tuple[Paired, Paired]:
    """Compare with stash, and with the least share of what it wins back."""
    beyond = _beyond_share(cell, strategy, settings)
    differences = (_against(cell, strategy, STASH), beyond)
    kept, above = (paired(d, margin=margin, level=settings.level, least_sd=_image(cell)) for d in differences)
    return kept, above


def _seeds_to_decide(kept: Paired, above: Paired, margin: float, holds: float, fails: float) -> float:
    """Pairs with which both conditions would be shown to hold, or the clearer one not to, at the means found.

    ``holds`` and ``fails`` are the levels of these one-sided tests.
    """
    distances = [(kept.mean + margin, kept.sd), (above.mean, above.sd)]
    failing = [pair for pair in distances if pair[0] < 0]
    if failing:
        return min(seeds_needed(-distance, sd, level=fails) for distance, sd in failing)
    return max(seeds_needed(distance, sd, level=holds) for distance, sd in distances)


def _beyond_share(cell: pd.DataFrame, strategy: str, settings: ComparisonSettings) -> pd.Series:
    """(strategy - latest) - least share * (stash - latest): above 0 on average if the share is above the least one."""
    assert settings.least_share is not None
    scores = paired_scores(cell, strategy, STASH, LATEST)
    return scores[strategy] - scores[LATEST] - settings.least_share * (scores[STASH] - scores[LATEST])


def _intervals(cell: pd.DataFrame, strategy: str, margin: float, level: float) -> dict[str, float]:
    found = paired(_against(cell, strategy, STASH), margin=margin, level=level, least_sd=_image(cell))
    won = share(cell, strategy, level)
    values = (found.mean, found.sd, found.low, found.high, won.value, won.low, won.high)
    return dict(zip(_INTERVALS, values, strict=True))


def share(cell: pd.DataFrame, strategy: str, level: float) -> Ratio:
    """What a strategy wins back of its cell's inconsistency, with the 1 - 2 level interval."""
    if strategy == LATEST:
        return Ratio(0.0, 0.0, 0.0)
    scores = paired_scores(cell, strategy, STASH, LATEST)
    return ratio(scores[strategy] - scores[LATEST], scores[STASH] - scores[LATEST], level=level)


def _outcome(row: Mapping[str, Any], settings: ComparisonSettings) -> str:
    if row["strategy"] == LATEST:
        return "loses" if row["sensitive"] else "undecided"
    for name in ("diverges", "keeps", "loses"):
        if row[f"p_{name}"] < settings.level:
            return name
    return "undecided"


def mcnemar(lost: int, won: int) -> float:
    """One-sided p-value of ``lost`` pairs in which one alone failed, against ``won`` in which the other alone did."""
    return float(stats.binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0


def _gap(cell: pd.DataFrame, settings: ComparisonSettings, level: float) -> Paired:
    """What the latest weights lose against stash."""
    margin = settings.margin_of(str(cell["network"].iloc[0]))
    return paired(_against(cell, STASH, LATEST), margin=margin, level=level, least_sd=_image(cell))


def _delays(cell: pd.DataFrame, alone: pd.DataFrame) -> pd.Series:
    stash = cell[cell["strategy"] == STASH].set_index("seed")["score"]
    return (alone.set_index("seed")["score"] - stash).dropna()


def _alone(alone: pd.DataFrame, key: Mapping[str, Any]) -> pd.DataFrame:
    """Sequential training of the cell's network, at its own rate."""
    return rows_with(alone, {name: key[name] for name in (*ALONE, "rate")})


def _against(cell: pd.DataFrame, strategy: str, other: str) -> pd.Series:
    """Differences of the seeds with which both completed, in points."""
    scores = paired_scores(cell, strategy, other)
    return scores[strategy] - scores[other]


def _divergences(cell: pd.DataFrame, strategy: str) -> tuple[int, int, int]:
    """Pairs in which the strategy alone diverged, in which stash alone did, and all pairs."""
    failed = cell.assign(failed=cell["score"].isna()).pivot(index="seed", columns="strategy", values="failed")
    both = failed[[strategy, STASH]].dropna().astype(bool)
    own, other = both[strategy], both[STASH]
    return int((own & ~other).sum()), int((~own & other).sum()), len(both)


def _seeds(cell: pd.DataFrame, strategy: str) -> set[int]:
    return set(cell.loc[cell["strategy"] == strategy, "seed"])


def _image(cell: pd.DataFrame) -> float:
    """Points that one test image is worth: equal counts of a few seeds are no proof."""
    return 100 / float(cell["test_images"].max())
