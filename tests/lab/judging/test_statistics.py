"""The tests of the tests: other implementations, and how often they are wrong when the null hypothesis is true."""

import doctest
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from layerpipe2.lab.judging import statistics
from layerpipe2.lab.judging.statistics import holm, paired

LEVEL, MARGIN, DRAWS = 0.05, 0.5, 2000
SLACK = 3 * math.sqrt(LEVEL * (1 - LEVEL) / DRAWS)  # three standard errors of a simulated rate


def test_examples():
    result = doctest.testmod(statistics)
    assert result.attempted > 0
    assert result.failed == 0


def draws(mean, n, count=DRAWS, seed=0):
    return np.random.default_rng(seed).normal(mean, 0.3, (count, n))


def judge(values):
    return paired(values, margin=MARGIN, level=LEVEL)


def test_p_values_and_interval_are_scipys():
    for values in draws(0.3, 5, count=20):
        found = judge(values)
        nulls = (MARGIN, -MARGIN, 0)
        greater = [stats.ttest_1samp(values, null, alternative="greater").pvalue for null in nulls]
        less = [stats.ttest_1samp(values, null, alternative="less").pvalue for null in nulls]
        assert (found.p_better, found.p_kept, found.p_superior) == pytest.approx(tuple(greater))
        assert found.p_worse == pytest.approx(less[1])
        assert found.p_equivalent == pytest.approx(max(greater[1], less[0]))
        interval = stats.ttest_1samp(values, 0).confidence_interval(1 - 2 * LEVEL)
        assert (found.low, found.high) == pytest.approx(tuple(interval))


@pytest.mark.parametrize("n", [3, 5])
def test_equivalence_and_superiority_are_claimed_wrongly_at_most_at_their_level(n):
    wrong = np.mean([judge(values).p_equivalent < LEVEL for values in draws(MARGIN, n)])
    assert wrong <= LEVEL + SLACK
    right = np.mean([judge(values).p_equivalent < LEVEL for values in draws(0.0, 12)])
    assert right > 0.9
    wrong = np.mean([judge(values).p_superior < LEVEL for values in draws(0.0, n)])
    assert abs(wrong - LEVEL) <= SLACK


def test_without_correction_a_family_is_wrong_far_too_often_and_with_holm_at_most_at_its_level():
    family = 8
    values = draws(0.0, 5, count=DRAWS * family, seed=1)
    p = np.array([judge(row).p_superior for row in values]).reshape(DRAWS, family)
    assert np.mean(p.min(1) < LEVEL) > 0.25
    assert np.mean([holm(row).min() < LEVEL for row in p]) <= LEVEL + SLACK


def test_holm_is_the_closed_form_of_bonferroni():
    generator = np.random.default_rng(3)
    for _ in range(20):
        p = generator.random(5) ** 3
        for i, adjusted in enumerate(holm(p)):
            subsets = [s for k in range(1, 6) for s in itertools.combinations(range(5), k) if i in s]
            assert adjusted == pytest.approx(min(1.0, max(len(s) * min(p[list(s)]) for s in subsets)))


def test_absent_values_stay_absent():
    np.testing.assert_allclose(holm([0.01, 0.04, math.nan, 0.03]), [0.03, 0.06, math.nan, 0.06])
    assert holm([]).size == 0
    two = judge(np.array([1.0, math.nan, 3.0]))
    assert (two.mean, two.sd, two.n) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert judge(np.array([])).n == 0
    one = judge(np.array([0.1, math.nan]))
    assert (one.n, one.mean) == (1, 0.1)
    assert math.isnan(one.p_equivalent)


def test_equal_values_are_no_proof_below_the_resolution():
    equal = paired([0.0, 0.0, 0.0], margin=0.5, level=LEVEL, least_sd=0.4)
    assert equal.p_equivalent == pytest.approx(stats.t(2).sf(0.5 / (0.4 / math.sqrt(3))))
    assert paired([0.0, 0.0], margin=0.5, level=LEVEL).p_equivalent == 0
