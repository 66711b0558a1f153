"""Closed forms against numerically exact quadratic forms: the infinite average cut off where it is below rounding."""

import numpy as np
import pytest

from layerpipe2 import UserError
from layerpipe2.strategies.moments import Moments, Updates
from layerpipe2.strategies.optimal import optimal_pair
from layerpipe2.theory.optimal import nesterov

AGES = np.arange(600)
MODELS = {
    "white": Updates(),
    "momentum": Updates(0.9),
    "short memory": Updates(0.5),
    "alternating": Updates(-0.6),
    "nesterov": nesterov(0.9),
    "constant drift": Updates(0.5, drift=0.7),
    "moving drift": Updates(0.9, white=0.3, drift=-0.4, ramp=0.05),
}


def products(updates: Updates) -> np.ndarray:
    """Mean of u_i u_j."""
    lags = np.abs(AGES[:, None] - AGES)
    covariance = np.array([updates.covariance(int(k)) for k in AGES])[lags]
    mean = np.array([updates.mean(int(k)) for k in AGES])
    return covariance + np.outer(mean, mean)


def vectors(delay: int, decay: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the updates, by age, in the lagged average, the newest update and the window."""
    average = np.r_[0.0, (1 - decay) * float(decay) ** AGES[:-1]]
    return average, (AGES == 0).astype(float), np.repeat([1.0, 0.0], [delay, len(AGES) - delay])


@pytest.mark.parametrize("name", MODELS)
def test_moments(name):
    matrix = products(MODELS[name])
    for delay in (1, 2, 5, 16):
        for decay in (0.0, 0.3, 0.5, 0.9, 0.9 + 1e-6, 0.9 - 2e-3, 0.95):
            a, u, s = vectors(delay, decay)
            m = Moments.of(MODELS[name], delay, decay)
            mine = [m.average, m.newest, m.window, m.average_newest, m.average_window, m.newest_window]
            exact = [a @ matrix @ a, u @ matrix @ u, s @ matrix @ s, a @ matrix @ u, a @ matrix @ s, u @ matrix @ s]
            np.testing.assert_allclose(mine, exact, rtol=1e-9, atol=1e-10)


def test_pair_is_exact_for_one_and_two_updates():
    for delay in (1, 2):
        for updates in MODELS.values():
            best = optimal_pair(updates, delay)
            squared = Moments.of(updates, delay, best.decay).squared_error(best.x, best.y)
            assert squared == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Updates(1.0), "correlation of the updates is 1.0"),
        (lambda: Updates(-1.0), "correlation of the updates is -1.0"),
        (lambda: Updates(0.5, white=-1.0), "white part of the updates has variance -1.0"),
        (lambda: Moments.of(Updates(), 0, 0.5), "delay 0 and decay 0.5"),
        (lambda: Moments.of(Updates(), 2, 1.0), "delay 2 and decay 1.0"),
        (lambda: Moments.of(Updates(), 2, -0.1), "delay 2 and decay -0.1"),
    ],
)
def test_bad_models(call, message):
    with pytest.raises(UserError, match=message):
        call()
