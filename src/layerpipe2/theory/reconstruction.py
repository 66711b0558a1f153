"""How well each strategy reconstructs ``W(t - n)``: steady-state error in closed form, and the way back from errors.

Every error is relative, as :class:`layerpipe2.probe.ReconstructionProbe` measures it: root mean square of
``What - W(t - n)`` over that of ``W(t) - W(t - n)``; 0 is exact, 1 no better than the latest weights. The sums stand in
:mod:`layerpipe2.moments`, the optima and the limits for long delays in :mod:`layerpipe2.optimal`.

**White updates** (plain SGD, gradient noise only), decay ``b``, gain ``n``::

    error^2 = n (1 - b) / (1 + b) - 2 (1 - b^n) + 1

=======  ===========  ================  ======  ================================
rule     decay        error^2, large n  error   bias per unit of ramp, see below
=======  ===========  ================  ======  ================================
window   (n-1)/n      2/e - 1/2         0.4855  -n (n-1) / 2
running  n/(n+1)      2/e - 1/2         0.4855  -n (n+1) / 2
span     (n-1)/(n+1)  2/e^2             0.5203  0
lsq      1 - 2ln2/n   ln 2 - 1/2        0.4395  -n (n (1/ln 2 - 1) - 1) / 2
=======  ===========  ================  ======  ================================

**Drifting updates.** A constant drift is reconstructed exactly by every rule, ``n E`` being unbiased. If the drift
itself moves by ``r`` per update, the mean of ``E`` belongs to age ``b / (1 - b)``, that of the window to ``(n-1)/2``:
the bias is ``r n ((n-1)/2 - b/(1-b))``. It vanishes for `span` alone.

**Momentum** makes updates AR(1) with coefficient ``m``. When ``n (1 - m)`` is small they look like a drift within the
window, and `span` is close to the best; when it is large, like white noise, and `lsq` is. No rule of the family wins
both; :func:`layerpipe2.optimal.optimal_decay` gives what could be won by the decay alone.

**Raw gradients.** The average of ``lr g``, ``g_i = v_i - m v_(i+1)``, is ``(1 - b) u_0 + (b - m) A``: with momentum it
stands for ``1 - m`` of the drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from layerpipe2.errors import UserError
from layerpipe2.history import DECAY_RULES, make_history
from layerpipe2.history_pair import told_apart
from layerpipe2.moments import Moments, Updates
from layerpipe2.optimal import Estimator, optimal_pair

_EXACT = ("stash", "sequential", "update-window")


def estimator(strategy: str, delay: int, updates: Updates) -> Estimator:
    """The weights that ``strategy`` gives the average and the newest update, and its relative error.

    `pair` measures the correlation of the updates as they are. The ``-raw`` averages take the optimizer's momentum to
    be the updates' correlation (not Nesterov's).

    Raises:
        UserError: on an unknown strategy, or one that is exact and has no average.
    """
    make_history(strategy)
    if strategy in _EXACT:
        raise UserError(f"strategy '{strategy}' keeps the past itself: there is nothing to estimate; its error is 0")
    if strategy == "latest":
        decay, x, y = 0.0, 0.0, 0.0
    elif strategy.startswith("pair"):
        best = optimal_pair(Updates(_believed(strategy, updates)), delay)
        decay, x, y = best.decay, best.x, best.y
    else:
        decay = _decay(strategy.removesuffix("-raw").removeprefix("ema-"), delay)
        lost = updates.correlation if strategy.endswith("-raw") else 0.0
        x, y = delay * (decay - lost), delay * (1 - decay)
    moments = Moments.of(updates, delay, decay)
    return Estimator(decay, x, y, math.sqrt(max(0.0, moments.squared_error(x, y)) / moments.window))


def error(strategy: str, delay: int, updates: Updates) -> float:
    """Relative error of ``strategy`` at ``delay`` >= 1 in steady state."""
    make_history(strategy)
    return 0.0 if strategy in _EXACT else estimator(strategy, delay, updates).error


def ramp_bias(delay: int, decay: float) -> float:
    """Mean of ``n E - S`` where the mean update grows by one per update: ``n ((n-1)/2 - b/(1-b))``."""
    return delay * ((delay - 1) / 2 - decay / (1 - decay))


def white_limit(z: float, gain: float = 1.0) -> float:
    """Error of decay ``1 - z/n`` with gain ``gain * n`` for white updates as ``n`` grows; ``gain`` is ``c`` there.

    ``sqrt(1 - 2 c (1 - e^-z) + c^2 z / 2)``, see :mod:`layerpipe2.optimal`.
    """
    return math.sqrt(1 + 2 * gain * math.expm1(-z) + gain**2 * z / 2)


def fitted_correlation(measured: Iterable[dict[str, Any]]) -> float:
    """The ``m`` in [0, 0.999] under which theory comes closest to measured errors, in squared log ratio.

    It is what the updates look like to the averages; gradients that are not white move it off the momentum.

    Args:
        measured: rows with ``strategy``, ``delay`` and ``relative_error``, as the probe's; exact strategies, delay 0
            and errors of 0 or None say nothing and are left out.

    Raises:
        UserError: if nothing is left.
    """
    groups: dict[tuple[str, int], list[float]] = {}
    for row in measured:
        if row["strategy"] not in (*_EXACT, "latest") and row["delay"] and row["relative_error"]:
            groups.setdefault((row["strategy"], int(row["delay"])), []).append(math.log(row["relative_error"]))
    means = {key: sum(logs) / len(logs) for key, logs in groups.items() if estimator(*key, Updates()).error > 0}
    if not means:
        raise UserError("no reconstruction error to fit; give rows of the probe with averages and delays of at least 1")

    def misfit(m: float) -> float:
        return sum((mean - math.log(error(*key, Updates(m)))) ** 2 for key, mean in means.items())

    coarse = min((i / 50 for i in range(50)), key=misfit)
    return min((m for i in range(-20, 21) if 0 <= (m := coarse + i / 1000) < 1), key=misfit)


def _believed(strategy: str, updates: Updates) -> float:
    """The correlation that a pair counts on: its own, or what it measures, as near as it tells them apart."""
    if strategy != "pair":
        return float(strategy.removeprefix("pair-"))
    newest, older = updates.mean(0), updates.mean(1)
    square = updates.covariance(0) + (newest**2 + older**2) / 2
    return told_apart((updates.covariance(1) + newest * older) / square)


def _decay(rule: str, delay: int) -> float:
    return DECAY_RULES[rule](delay) if rule in DECAY_RULES else float(rule)
