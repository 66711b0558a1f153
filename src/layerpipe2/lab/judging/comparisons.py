"""Paired comparison of strategies over seeds: equivalence, loss and superiority, corrected for many comparisons.

A pair is one partition of one network trained with one seed by a strategy and by exact stashing: same initial weights,
same batches, same test images. Its difference is strategy minus stash, in percentage points of final test accuracy or
in nats of test loss, counted so that more is better.

Tests (Student's t over pairs, one-sided, level alpha):
  equivalent  two one-sided tests (Schuirmann 1987): the mean difference lies inside (-margin, +margin)
  worse       it lies below -margin                better      it lies above +margin
  kept        it lies above -margin                superior    it lies above 0
P-values are Holm-adjusted (1979) within each family of comparisons. Two guards keep small test sets honest. The
standard deviation is never taken below one test image, so that equal counts in a few seeds are no proof. And all
seeds share the same test images: sampling other images would move the difference by about ``image_error``, the
half-width of its normal interval. It comes from the differences test image by test image, where they are known (a
window of text is one image); otherwise the errors of the two networks are taken as independent, an upper bound if they
are positively correlated. A margin that is not wider than this cannot be resolved, and a loss must exceed the margin
by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
from scipy import stats

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import CELL, STASH
from layerpipe2.lab.judging.statistics import holm, paired

HYPOTHESES = ("equivalent", "worse", "better", "kept", "superior")
COLUMNS = ("n", "pairs", "lost", "won", "mean", "sd", "low", "high", "image_error", *(f"p_{h}" for h in HYPOTHESES))
"""Columns of a comparison, beside those that name it and its outcome."""


@dataclass(frozen=True)
class ComparisonSettings:
    """Parameters of the tests.

    Attributes:
        margin: largest difference that counts as none, > 0.
        unit: of the margin and of all differences: percentage points of test accuracy, or nats of test loss.
        guess: data set -> test loss in nats of an answer that is always the same; empty unless losses are judged.
        least_share: if given, verdicts follow :mod:`layerpipe2.lab.judging.share_rule`: what a strategy must win back.
        margins: network -> margin of its cells under that rule, where it isn't ``margin``.
        level: significance level alpha of a family of tests, in (0, 0.5).
        image_guard: whether a verdict must also hold for other test images (see the module's text); without it the
            verdicts are about the accuracy on this test set.
    """

    margin: float = 2.0
    level: float = 0.05
    image_guard: bool = True
    unit: str = "points"
    guess: Mapping[str, float] = field(default_factory=dict)
    least_share: float | None = None
    margins: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, high in (("margin", self.margin, 100.0), ("level", self.level, 0.5)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < high:
                raise UserError(f"report.{name} is {value!r}; give a number between 0 and {high:g} in the experiment")
        if (self.unit == "nats") != bool(self.guess):
            what = f"the loss of guessing is {dict(self.guess)}, but the unit is {self.unit}"
            raise UserError(f"{what}; give it where losses are judged, and there alone")

    @classmethod
    def of(cls, experiment: Mapping[str, Any]) -> ComparisonSettings:
        """From the section ``report`` of an experiment's description, ``experiment.json``."""
        report = experiment["report"]
        level, guard, nats = report["significance_level"], report["image_guard"], report.get("equivalence_margin_nats")
        if nats is None:
            share: dict[str, Any] = {"least_share": report.get("least_share"), "margins": experiment.get("margins", {})}
            return cls(report["equivalence_margin_points"], level, guard, **share)
        return cls(nats, level, guard, "nats", report["guess_nats"] or {})

    def margin_of(self, network: str) -> float:
        """The margin of a network's cells."""
        return self.margins.get(network, self.margin)


def pairs(runs: pd.DataFrame, examples: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every pipelined run beside that of exact stashing in the same cell and with the same seed.

    Args:
        runs: with a column ``score``.
        examples: rows of :func:`experiments.accuracy.examples.example_rows`, for the spread over the test images.

    Returns:
        The runs with columns difference (points, absent if one of the two diverged), lost (only this run diverged),
        won (only stash diverged), variance (points^2, of the difference over test images) and image (points that one
        test image is worth).
    """
    pipelined, pair = runs[runs["num_stages"] > 1], [*CELL, "seed"]
    stash = pipelined.loc[pipelined["strategy"] == STASH, [*pair, "status", "test_accuracy", "score"]]
    both = pipelined[pipelined["strategy"] != STASH].merge(stash, on=pair, suffixes=("", "_stash"))
    own, others = both["test_accuracy"], both["test_accuracy_stash"]
    failed, stash_failed = both["status"] == "diverged", both["status_stash"] == "diverged"
    both = both.assign(
        difference=both["score"] - both["score_stash"],
        lost=failed & ~stash_failed,
        won=~failed & stash_failed,
        variance=1e4 * (own * (1 - own) + others * (1 - others)) / both["test_images"],
        image=100 / both["test_images"],
    )
    return both if examples is None else _by_example(both, examples[examples["reference"] == STASH])


def _by_example(both: pd.DataFrame, examples: pd.DataFrame) -> pd.DataFrame:
    """The pairs with the variance that the differences by test image have, where they are known."""
    keys = [name for name in examples.columns if name in both and name not in ("reference", "examples", "spread")]
    found = both.merge(examples[[*keys, "examples", "spread"]], on=keys, how="left")
    known = 1e4 * found["spread"] ** 2 / found["examples"]
    return found.assign(variance=known.fillna(found["variance"])).drop(columns=["examples", "spread"])


def compare(table: pd.DataFrame, by: Sequence[str], settings: ComparisonSettings) -> pd.DataFrame:
    """One row per group of pairs: mean difference with its interval, adjusted p-values and the outcome.

    Args:
        table: from :func:`pairs`, restricted to the family of comparisons that is to be corrected together.
        by: columns that make the groups, each with one pair per seed.
        settings: margin and level.

    Returns:
        Columns ``by``, n and pairs (how many), lost, won, mean, sd, low, high (points; the 1 - 2 alpha interval),
        image_error, p_equivalent, p_worse, p_better, p_kept, p_superior (adjusted), outcome.
    """
    rows = []
    for values, group in table.groupby(list(by), sort=False):
        rows.append(dict(zip(by, values, strict=True)) | _tested(group, settings))
    result = pd.DataFrame(rows, columns=[*by, *COLUMNS])
    for name in HYPOTHESES:
        result[f"p_{name}"] = holm(result[f"p_{name}"].to_numpy(dtype=float))
    return result.assign(outcome=[_outcome(row, settings) for row in result.to_dict("records")])


def _tested(group: pd.DataFrame, settings: ComparisonSettings) -> dict[str, float]:
    done = group[group["difference"].notna()]
    values = done["difference"].to_numpy(dtype=float)
    result = paired(values, margin=settings.margin, level=settings.level, least_sd=float(done["image"].max()))
    error = float(stats.norm.ppf(1 - settings.level)) * math.sqrt(done["variance"].mean()) if result.n else math.nan
    counts = {"pairs": result.n, "lost": int(group["lost"].sum()), "won": int(group["won"].sum())}
    return asdict(result) | counts | {"image_error": error}


def _outcome(row: Mapping[str, Any], settings: ComparisonSettings) -> str:
    if row["lost"]:
        return "diverged"
    if not row["n"] > 1:
        return "undecided"
    image_error = row["image_error"] if settings.image_guard else 0.0
    if row["p_equivalent"] < settings.level and image_error < settings.margin:
        return "equivalent"
    beyond = abs(row["mean"]) - settings.margin > image_error
    if beyond and row["p_better"] < settings.level:
        return "better"
    if row["p_kept"] < settings.level and row["mean"] - image_error > -settings.margin:
        return "no loss"
    return "worse" if beyond and row["p_worse"] < settings.level else "undecided"
