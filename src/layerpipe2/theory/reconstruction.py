"""How well each strategy reconstructs ``W(t - n)``: steady-state error in closed form, and the way back from errors.

Every error is relative, as :class:`layerpipe2.engine.probe.ReconstructionProbe` measures it: root mean square of
``What - W(t - n)`` over that of ``W(t) - W(t - n)``; 0 is exact, 1 no better than the latest weights. The sums stand in
:mod:`layerpipe2.strategies.moments`, the optima and the limits for long delays in :mod:`layerpipe2.theory.optimal`.

**White updates** (plain SGD, gradient noise only), decay ``b``, gain ``n``::

    error^2 = n (1 - b) / (1 + b) - 2 (1 - b^n) + 1

=======  ===========  ================  ======  =================================
rule     decay        error^2, large n  error   bias per unit of ramp, see below
=======  ===========  ================  ======  =================================
window   (n-1)/n      2/e - 1/2         0.4855  -n (n-1) / 2
running  n/(n+1)      2/e - 1/2         0.4855  -n (n+1) / 2
span     (n-1)/(n+1)  2/e^2             0.5203  0
lsq      see below    ln 2 - 1/2        0.4395  -n^2 (1/ln 2 - 1) / 2 for large n
=======  ===========  ================  ======  =================================

The least of it over ``b`` is where ``b^(n-1) (1 + b)^2 = 1``: the rule `lsq`, for large n ``1 - 2 ln 2 / n``.

**Drifting updates.** A constant drift is reconstructed exactly by every rule, ``n E`` being unbiased. If the drift
itself moves by ``r`` per update, the mean of ``E`` belongs to age ``b / (1 - b)``, that of the window to ``(n-1)/2``:
the bias is ``r n ((n-1)/2 - b/(1-b))``. It vanishes for `span` alone.

**Momentum** makes updates AR(1) with coefficient ``m``. When ``n (1 - m)`` is small they look like a drift within the
window, and `span` is close to the best; when it is large, like white noise, and `lsq` is. No rule of the family wins
both; :func:`layerpipe2.theory.optimal.optimal_decay` gives what could be won by the decay alone.

**Raw gradients.** The average of ``lr g``, ``g_i = v_i - m v_(i+1)``, is ``(1 - b) u_0 + (b - m) A``: with momentum it
stands for ``1 - m`` of the drift.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from layerpipe2.errors import UserError
from layerpipe2.strategies import NamedStrategy, find_strategy
from layerpipe2.strategies.moments import Updates
from layerpipe2.strategies.optimal import Estimator


def estimator(strategy: str, delay: int, updates: Updates) -> Estimator:
    """Return the weights that ``strategy`` gives the average and the newest update, and its relative error.

    `pair` measures the correlation of the updates as they are. The ``-raw`` averages take the updates' correlation for
    the optimizer's momentum (not Nesterov's).

    Raises:
        UserError: on an unknown strategy, one that is exact, or one that is no sum of average and newest update.
    """
    row = find_strategy(strategy)
    if row.exact:
        raise UserError(f"strategy '{strategy}' keeps the past itself: there is nothing to estimate; its error is 0")
    found = row.make().coefficients(delay, updates)
    if found is None:
        raise UserError(f"strategy '{strategy}' states no coefficients, so its error has no closed form; measure it")
    return Estimator.of(updates, delay, *found)


def error(strategy: str, delay: int, updates: Updates) -> float:
    """Return the relative error of ``strategy`` at ``delay`` >= 1 in steady state."""
    return 0.0 if find_strategy(strategy).exact else estimator(strategy, delay, updates).error


def fitted(measured: Iterable[dict[str, Any]]) -> Updates:
    """Return the AR(1) plus white updates under which theory comes closest to measured errors, in squared log ratio.

    It is what the updates look like to the averages. Gradients that are not white move it off the momentum.

    Args:
        measured: rows with ``strategy``, ``delay`` and ``relative_error``, as the probe's. Exact strategies, raw
            averages, delay 0, and errors of 0 or None say nothing and are left out.

    Returns:
        Correlation in [0, 0.99] and white part, to about three digits.

    Raises:
        UserError: if nothing is left.
    """
    groups: dict[tuple[str, int], list[float]] = {}
    for row in measured:
        if _averages(find_strategy(row["strategy"])) and row["delay"] and row["relative_error"]:
            groups.setdefault((row["strategy"], int(row["delay"])), []).append(math.log(row["relative_error"]))
    means = {key: sum(logs) / len(logs) for key, logs in groups.items() if error(*key, Updates()) > 0}
    if not means:
        raise UserError("no reconstruction error to fit; give rows of the probe with averages and delays of at least 1")

    def misfit(place: tuple[float, float]) -> float:
        return sum((mean - math.log(error(*key, _model(place)))) ** 2 for key, mean in means.items())

    return _model(_descend(misfit, min(((s / 4, w / 8) for s in range(18) for w in range(8)), key=misfit)))


def _averages(strategy: NamedStrategy) -> bool:
    """Say whether a strategy averages the applied updates in a way that has a closed form."""
    averages = strategy.family in ("average", "pair") and not strategy.raw
    return averages and strategy.make().coefficients(1, Updates()) is not None


def _model(place: tuple[float, float]) -> Updates:
    """Make updates from ``-ln(1 - m)`` and the white share of the variance."""
    return Updates(-math.expm1(-place[0]), place[1] / (1 - place[1]))


def _descend(value: Callable[[tuple[float, float]], float], start: tuple[float, float]) -> tuple[float, float]:
    """Search by patterns in [0, 4.6] x [0, 0.98], in steps from 1/8 to 1/2000."""
    place, step = start, 0.125
    while step > 1 / 2000:
        around = [(place[0] + i * step, place[1] + j * step / 2) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        best = min([place, *(p for p in around if 0 <= p[0] <= 4.6 and 0 <= p[1] <= 0.98)], key=value)
        step = step / 2 if best == place else step
        place = best
    return place
