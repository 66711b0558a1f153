"""Paired comparison of strategies over seeds: equivalence, loss and superiority, corrected for many comparisons.

A pair is one partition of one network trained with one seed by two strategies: same initial weights, same batches,
same test images. Its difference is strategy minus reference in percentage points of final test accuracy.

Tests (Student's t over blocks of pairs, one-sided, level alpha):
  equivalent  two one-sided tests (Schuirmann 1987): the mean difference lies inside (-margin, +margin)
  worse       it lies below -margin                better      it lies above +margin
  superior    it lies above 0
P-values are Holm-adjusted (1979) within each family of comparisons. Two guards keep small test sets honest. The
standard deviation is never taken below one test image, so that equal counts in a few seeds are no proof. And all
seeds share the same test images: sampling other images would move the difference by about ``image_error``, the
half-width of its normal interval with the errors of the two networks taken as independent (an upper bound if
they are positively correlated). A margin that is not wider than this cannot be resolved, and a loss must exceed
the margin by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from layerpipe2.errors import UserError
from paper_figures.records import CONFIGURATION
from paper_figures.statistics import holm, paired

CELL = [*CONFIGURATION, "num_stages", "strategy"]
"""One comparison per network, partition and strategy."""

PAIR = [*CONFIGURATION, "num_stages", "seed"]
"""What two runs that are compared have in common."""

HYPOTHESES = ("equivalent", "worse", "better", "superior")


@dataclass(frozen=True)
class Settings:
    """Parameters of the tests.

    Attributes:
        margin: largest difference of accuracy that counts as none, in percentage points, > 0.
        level: significance level alpha of a family of tests, in (0, 0.5).
        image_guard: whether a verdict must also hold for other test images (see the module's text); without it the
            verdicts are about the accuracy on this test set.
    """

    margin: float = 2.0
    level: float = 0.05
    image_guard: bool = True

    def __post_init__(self) -> None:
        for name, value, high in (("margin", self.margin, 100.0), ("level", self.level, 0.5)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < high:
                raise UserError(f"report.{name} is {value!r}; give a number between 0 and {high:g} in params.yaml")

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Settings:
        """From the section ``report`` of params.yaml: ``equivalence_margin_points`` and ``significance_level``."""
        section = params.get("report") or {}
        if not isinstance(section, Mapping):
            raise UserError("section 'report' of params.yaml is not a mapping; give 'equivalence_margin_points: 2'")
        unknown = set(section) - {"equivalence_margin_points", "significance_level"}
        if unknown:
            raise UserError(
                f"section 'report' of params.yaml has the unknown key '{min(map(str, unknown))}'; "
                "known: equivalence_margin_points, significance_level"
            )
        margin = section.get("equivalence_margin_points", cls.margin)
        return cls(margin, section.get("significance_level", cls.level))


def pairs(runs: pd.DataFrame, reference: str, key: Sequence[str] = PAIR) -> pd.DataFrame:
    """Every pipelined run beside the run of ``reference`` with the same ``key``: network, partition and seed.

    Returns:
        The runs with columns difference (points, absent if one of the two diverged), lost (only this run diverged),
        won (only the reference diverged), variance (points^2, of the difference over test images, errors taken as
        independent) and image (points that one test image is worth).
    """
    pipelined = runs[runs["num_stages"] > 1]
    other = pipelined.loc[pipelined["strategy"] == reference, [*key, "status", "test_accuracy"]]
    both = pipelined[pipelined["strategy"] != reference].merge(other, on=list(key), suffixes=("", "_reference"))
    own, held = both["test_accuracy"], both["test_accuracy_reference"]
    failed, reference_failed = both["status"] == "diverged", both["status_reference"] == "diverged"
    return both.assign(
        difference=100 * (own - held),
        lost=failed & ~reference_failed,
        won=~failed & reference_failed,
        variance=1e4 * (own * (1 - own) + held * (1 - held)) / both["test_images"],
        image=100 / both["test_images"],
    )


def compare(table: pd.DataFrame, by: Sequence[str], blocks: Sequence[str], settings: Settings) -> pd.DataFrame:
    """One row per group of pairs: mean difference with its interval, adjusted p-values and the outcome.

    Args:
        table: from :func:`pairs`, restricted to the family of comparisons that is to be corrected together.
        by: columns that make the groups, for example :data:`CELL`.
        blocks: columns that make the independent blocks within a group; pairs of a block are averaged first.
        settings: margin and level.

    Returns:
        Columns ``by``, n (blocks), pairs, mean, sd, low, high (points; the 1 - 2 alpha interval), image_error, lost,
        won, p_equivalent, p_worse, p_better, p_superior (adjusted), outcome.
    """
    rows = []
    for values, group in table.groupby(list(by), sort=False):
        rows.append(dict(zip(by, values, strict=True)) | _tested(group, list(blocks), settings))
    columns = [*by, "n", "pairs", "lost", "won", "mean", "sd", "low", "high", "image_error"]
    result = pd.DataFrame(rows, columns=[*columns, *(f"p_{name}" for name in HYPOTHESES)])
    for name in HYPOTHESES:
        result[f"p_{name}"] = holm(result[f"p_{name}"].to_numpy(dtype=float))
    return result.assign(outcome=[_outcome(row, settings) for row in result.to_dict("records")])


def _tested(group: pd.DataFrame, blocks: list[str], settings: Settings) -> dict[str, float]:
    done = group[group["difference"].notna()]
    values = done.groupby(blocks)["difference"].mean().to_numpy(dtype=float)
    result = paired(values, margin=settings.margin, level=settings.level, least_sd=float(done["image"].max()))
    counts = {"n": result.n, "pairs": len(done), "lost": int(group["lost"].sum()), "won": int(group["won"].sum())}
    error = float(stats.norm.ppf(1 - settings.level)) * math.sqrt(done["variance"].mean()) if result.n else math.nan
    about = {"mean": result.mean, "sd": result.sd, "low": result.low, "high": result.high, "image_error": error}
    return counts | about | {f"p_{name}": getattr(result, f"p_{name}") for name in HYPOTHESES}


def _outcome(row: Mapping[str, Any], settings: Settings) -> str:
    if row["lost"]:
        return "diverged"
    if not row["n"] > 1:
        return "undecided"
    image_error = row["image_error"] if settings.image_guard else 0.0
    if row["p_equivalent"] < settings.level and image_error < settings.margin:
        return "equivalent"
    beyond = abs(row["mean"]) - settings.margin > image_error
    if beyond and row["p_worse"] < settings.level:
        return "worse"
    return "better" if beyond and row["p_better"] < settings.level else "undecided"


def reconstructions(strategies: Sequence[str]) -> list[str]:
    """The strategies that reconstruct the weights by a moving average, as the paper does."""
    return [name for name in strategies if name.startswith("ema-")]


def own(strategies: Sequence[str]) -> list[str]:
    """This project's own reconstructions (``pair``): not the paper's, so that no verdict on a claim rests on them."""
    return [name for name in strategies if name == "pair" or name.startswith("pair-")]


def pipeline_aware(strategies: Sequence[str]) -> list[str]:
    """Those whose decay follows from the delay, over applied updates: the candidates for the paper's method."""
    return [name for name in reconstructions(strategies) if name in _AWARE]


_AWARE = ("ema-window", "ema-running", "ema-span", "ema-lsq")
