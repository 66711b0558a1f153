"""Statistics of repeated runs: paired tests of equivalence and superiority, correction for many tests, trends.

Two strategies trained with one seed share initial weights and batches, so their difference varies less than either
accuracy; all tests here are Student's t over such differences, one per seed. Needs scipy (extra ``figures``).

>>> import numpy as np
>>> result = paired(np.array([0.1, -0.2, 0.05, 0.15]), margin=0.5, level=0.05)
>>> round(result.mean, 3), round(result.low, 3), round(result.high, 3), result.p_equivalent < 0.05
(0.025, -0.158, 0.208, True)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Tests on the mean of paired differences, all one-sided; NaN for fewer than 2 seeds.

    Attributes:
        mean, sd, n: mean, sample standard deviation and number of the differences.
        low, high: the 1 - 2 * level interval of the mean: the tests at ``level`` can be read off it.
        p_equivalent: two one-sided tests (Schuirmann 1987): the mean lies within (-margin, margin).
        p_worse, p_better: it lies below -margin, above margin.
        p_kept: it lies above -margin (not inferior): no loss beyond the margin, whatever is gained.
        p_superior: it lies above 0.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float
    p_equivalent: float
    p_worse: float
    p_better: float
    p_kept: float
    p_superior: float


def paired(differences: ArrayLike, *, margin: float, level: float, least_sd: float = 0.0) -> Paired:
    """Test paired differences, one per seed.

    Args:
        differences: (n,), in any unit; NaN counts as absent.
        margin: largest difference that counts as none, in that unit.
        level: significance level of one test.
        least_sd: the standard deviation is never taken below this (the resolution of the measurement), so that equal
            values of a few seeds are no proof.
    """
    given = np.asarray(differences, dtype=np.float64)
    known = given[~np.isnan(given)]
    n, mean = len(known), float(known.mean()) if len(known) else math.nan
    sd = max(float(known.std(ddof=1)), least_sd) if n > 1 else math.nan
    freedom, error = max(n - 1, 1), sd / math.sqrt(max(n, 1))
    reach = float(special.stdtrit(freedom, 1 - level)) * error

    def p_value(beyond: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(special.stdtr(freedom, -np.divide(beyond, error)))

    return Paired(
        mean,
        sd,
        n,
        low=mean - reach,
        high=mean + reach,
        p_equivalent=p_value(margin - abs(mean)),
        p_worse=p_value(-margin - mean),
        p_better=p_value(mean - margin),
        p_kept=p_value(mean + margin),
        p_superior=p_value(mean),
    )


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment (1979) of a family of p-values; absent ones stay absent and don't count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(given), np.nan)
    present = np.flatnonzero(~np.isnan(given))
    order = present[np.argsort(given[present], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * given[order]))
    return adjusted


def seeds_needed(distance: float, sd: float, *, level: float) -> float:
    """Pairs with which a one-sided t test finds a mean this far from its bound, four times in five.

    ``((z_(1 - level) + z_0.8) sd / distance)^2`` and one more, for normal differences; infinite for no distance,
    and where one of these isn't known.

    >>> seeds_needed(1.0, 2.0, level=0.05)
    26.0
    """
    if math.isnan(sd * distance * level) or not distance:
        return math.inf
    wide = float(special.ndtri(1 - level)) + float(special.ndtri(0.8))
    return float(math.ceil((wide * sd / distance) ** 2 + 1))


def holm_levels(p_values: ArrayLike, level: float) -> Floats:
    """The level at which Holm's procedure tests each of a family of unadjusted p-values; NaN where one is absent.

    A test at its own level then decides as the adjusted p-value does: from the first one that isn't rejected on, all
    others have its level.

    >>> holm_levels([0.01, 0.04, 0.03], 0.07).round(3).tolist()
    [0.023, 0.07, 0.035]
    """
    given = np.asarray(p_values, dtype=np.float64)
    levels = np.full(len(given), np.nan)
    present = np.flatnonzero(~np.isnan(given))
    order = present[np.argsort(given[present], kind="stable")]
    own = level / np.arange(len(order), 0, -1)
    stops = np.flatnonzero(given[order] >= own)
    levels[order] = own if not len(stops) else np.minimum(own, own[stops[0]])
    return levels


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means with its Fieller interval; infinite ends where the denominator may be 0."""

    value: float
    low: float
    high: float


def ratio(numerators: ArrayLike, denominators: ArrayLike, *, level: float) -> Ratio:
    """Ratio of the means of paired values, with the 1 - 2 * level interval of Fieller (1954).

    The ratio r is in the interval unless a - r b, whose mean is 0 for the true ratio, differs from 0 by a t test:
    (A - r B)^2 <= t^2 (s_aa - 2 r s_ab + r^2 s_bb), with the means A, B and the variances s of the means. That is a
    bounded interval exactly where B differs from 0 by the same test; elsewhere the interval is all numbers.

    Args:
        numerators, denominators: (n,), one pair per seed.
        level: significance level of one side.

    >>> found = ratio([1.0, 2.1, 2.9], [2.0, 4.0, 6.0], level=0.05)
    >>> round(found.value, 3), found.low < 0.5 < found.high
    (0.5, True)
    """
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    n, unbounded = len(a), Ratio(math.nan, -math.inf, math.inf)
    if n < 2 or not b.mean():
        return unbounded
    t2 = float(special.stdtrit(n - 1, 1 - level)) ** 2
    s = np.cov(a, b) / n
    square = b.mean() ** 2 - t2 * s[1, 1]
    middle = a.mean() * b.mean() - t2 * s[0, 1]
    constant = a.mean() ** 2 - t2 * s[0, 0]
    value = float(a.mean() / b.mean())
    if square <= 0:
        return Ratio(value, -math.inf, math.inf)
    reach = math.sqrt(max(middle**2 - square * constant, 0.0))
    return Ratio(value, float((middle - reach) / square), float((middle + reach) / square))
