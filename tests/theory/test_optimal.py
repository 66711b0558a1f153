"""What each freedom wins, against numerically exact quadratic forms; the models of updates."""

import numpy as np
import pytest

from layerpipe2 import UserError
from layerpipe2.strategies.moments import Updates
from layerpipe2.strategies.optimal import optimal_pair
from layerpipe2.theory.optimal import nesterov, optimal_decay, optimal_gain
from tests.strategies.test_moments import MODELS, products, vectors


@pytest.mark.parametrize("name", MODELS)
def test_optima_are_those_of_the_quadratic_form(name):
    matrix, delay = products(MODELS[name]), 7
    window = vectors(delay, 0.0)[2] @ matrix @ vectors(delay, 0.0)[2]

    def least(decay, freedom):
        a, u, s = vectors(delay, decay)
        ordinary_average = (1 - decay) * u + decay * a
        if freedom == "decay":
            e = delay * ordinary_average - s
            return float(np.sqrt(e @ matrix @ e / window))
        basis = np.stack([ordinary_average] if freedom == "gain" else [a, u])
        normal, right = basis @ matrix @ basis.T, basis @ matrix @ s
        return float(np.sqrt(max(0.0, 1 - right @ np.linalg.solve(normal, right) / window)))

    for freedom, found in {"decay": optimal_decay, "gain": optimal_gain, "pair": optimal_pair}.items():
        best = found(MODELS[name], delay)
        assert best.error == pytest.approx(least(best.decay, freedom), abs=1e-9)
        scan = [least(decay, freedom) for decay in np.linspace(0, 0.96, 97)]
        assert best.error <= min(scan) + 1e-12, freedom


def test_nesterov_is_its_own_moving_average():
    noise, m = np.random.default_rng(0).normal(size=(400_000,)), 0.8
    weights = np.r_[1 + m, m ** np.arange(2, 80)]
    updates = np.convolve(noise, weights, "valid")
    measured = np.array([np.mean(updates[k:] * updates[: len(updates) - k]) for k in range(5)])
    model = np.array([nesterov(m).covariance(k) for k in range(5)])
    np.testing.assert_allclose(measured / measured[0], model / model[0], atol=0.02)
    with pytest.raises(UserError, match="Nesterov momentum is 0"):
        nesterov(0.0)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.9])
def test_one_late_update_needs_no_memory(correlation):
    best = optimal_decay(Updates(correlation), 1)
    assert (best.decay, best.y, best.error) == (0, 1, 0)
