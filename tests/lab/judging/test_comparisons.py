"""Paired comparisons against cases made by hand."""

import numpy as np
import pytest
from scipy import stats

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings, compare, pairs
from layerpipe2.lab.judging.designs import CELL
from tests.synthetic_records import STASH, made_runs, whole

_SETTINGS = ComparisonSettings()


def _compared(settings=_SETTINGS, images=10_000, **columns):
    """The comparison of EMA span (``ours``) with ``stash``."""
    runs = made_runs({"stash": columns.get("stash", list(STASH)), "ema-span": columns["ours"]}, images)
    scored = whole(runs).assign(score=100 * runs["test_accuracy"])
    return compare(pairs(scored), CELL, settings).iloc[0]


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [
        ([0.969, 0.973, 0.967, 0.972], "equivalent"),
        ([0.965, 0.968, 0.962, 0.966], "equivalent"),  # surely worse, but inside the margin
        ([0.90, 0.91, 0.90, 0.90], "worse"),
        ([0.999, 0.9995, 0.998, 0.9992], "better"),
        ([0.94, 0.99, 0.95, 0.98], "undecided"),  # too scattered
        ([0.950, 0.953, 0.947, 0.952], "undecided"),  # at the margin
        ([0.97], "undecided"),  # one seed
        ([0.970, 0.972, None, 0.971], "diverged"),
    ],
)
def test_outcomes(ours, outcome):
    assert _compared(ours=ours)["outcome"] == outcome


def test_few_test_images_decide_no_equivalence_unless_the_verdict_is_about_this_test_set():
    same, unguarded = [0.97, 0.97, 0.97, 0.97], ComparisonSettings(margin=3, image_guard=False)
    assert _compared(ours=same, stash=same)["outcome"] == "equivalent"
    assert _compared(ComparisonSettings(margin=3), 100, ours=same, stash=same)["outcome"] == "undecided"
    assert _compared(unguarded, 100, ours=same, stash=same)["outcome"] == "equivalent"
    collapse = _compared(ours=[0.10, 0.11, 0.12, 0.09], images=100)  # shows on any test set
    assert collapse["outcome"] == "worse"


def test_equal_counts_are_not_taken_as_no_spread():
    row = _compared(ours=[0.97, 0.97], stash=[0.97, 0.97], images=450)
    assert row["sd"] == pytest.approx(100 / 450)
    assert row["p_equivalent"] > 0.02


def test_seeds_are_paired_and_a_seed_without_partner_is_left_out():
    row = _compared(ours=[0.901, 0.951, 0.801], stash=[0.90, 0.95, 0.80, 0.85])
    assert row["n"] == 3
    assert row["mean"] == pytest.approx(0.1)
    assert row["sd"] == pytest.approx(0.01)  # one of 10,000 images; the accuracies themselves scatter by points


def test_stash_that_diverged_makes_no_pair_and_no_loss():
    row = _compared(ours=[0.97, 0.97, 0.97], stash=[None, 0.97, 0.97])
    assert (row["n"], row["lost"], row["won"]) == (2, 0, 1)


def test_p_values_are_those_of_the_paired_t_test():
    ours = [0.961, 0.968, 0.955, 0.969]
    row = _compared(ours=ours)
    points = 100 * (np.array(ours) - np.array(STASH))
    low = stats.ttest_1samp(points, -2.0, alternative="greater").pvalue
    high = stats.ttest_1samp(points, 2.0, alternative="less").pvalue
    assert row["p_equivalent"] == pytest.approx(max(low, high))
    assert row["p_superior"] == pytest.approx(stats.ttest_1samp(points, 0.0, alternative="greater").pvalue)
    interval = stats.ttest_1samp(points, 0.0).confidence_interval(0.9)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("change", [{"margin": 0}, {"margin": "two"}, {"margin": True}, {"level": 0.7}])
def test_bad_settings(change):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=rf"report\.{name} is {value!r}; give a number between 0 and"):
        ComparisonSettings(**change)
