"""Closed forms against numerically exact quadratic forms: the infinite average cut off where it is below rounding."""

import numpy as np
import pytest

from layerpipe2 import UserError
from layerpipe2.strategies.moments import Moments, Updates
from layerpipe2.strategies.optimal import optimal_decay, optimal_gain, optimal_pair, ordinary

AGES = np.arange(600)
MODELS = {
    "white": Updates(),
    "momentum": Updates(0.9),
    "short memory": Updates(0.5),
    "alternating": Updates(-0.6),
    "nesterov": Updates.nesterov(0.9),
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


@pytest.mark.parametrize("name", MODELS)
def test_optima_are_those_of_the_quadratic_form(name):
    matrix, delay = products(MODELS[name]), 7
    window = vectors(delay, 0.0)[2] @ matrix @ vectors(delay, 0.0)[2]

    def least(decay: float, freedom: str) -> float:
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


def test_more_freedom_never_hurts():
    for updates in MODELS.values():
        for delay in (2, 3, 8, 30):
            errors = [found(updates, delay).error for found in (optimal_decay, optimal_gain, optimal_pair)]
            assert errors[0] >= errors[1] - 1e-12
            assert errors[1] >= errors[2] - 1e-12


def test_optimum_does_not_move_with_the_decay_to_first_order():
    for delay in (3, 14, 200):
        best = optimal_decay(Updates(0.8), delay)
        step = 1e-3 * (1 - best.decay)
        beside = [ordinary(Updates(0.8), delay, best.decay + d, delay).error for d in (-step, step)]
        assert min(beside) > best.error
        assert abs(beside[1] - beside[0]) < 1e-6


def test_pair_is_exact_for_one_and_two_updates():
    for delay in (1, 2):
        for updates in MODELS.values():
            best = optimal_pair(updates, delay)
            squared = Moments.of(updates, delay, best.decay).squared_error(best.x, best.y)
            assert squared == pytest.approx(0, abs=1e-12)


def test_nesterov_is_its_own_moving_average():
    noise, m = np.random.default_rng(0).normal(size=(400_000,)), 0.8
    weights = np.r_[1 + m, m ** np.arange(2, 80)]
    updates = np.convolve(noise, weights, "valid")
    measured = np.array([np.mean(updates[k:] * updates[: len(updates) - k]) for k in range(5)])
    model = np.array([Updates.nesterov(m).covariance(k) for k in range(5)])
    np.testing.assert_allclose(measured / measured[0], model / model[0], atol=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Updates(1.0), "correlation of the updates is 1.0"),
        (lambda: Updates(-1.0), "correlation of the updates is -1.0"),
        (lambda: Updates(0.5, white=-1.0), "white part of the updates has variance -1.0"),
        (lambda: Updates.nesterov(0.0), "Nesterov momentum is 0.0"),
        (lambda: Moments.of(Updates(), 0, 0.5), "delay 0 and decay 0.5"),
        (lambda: Moments.of(Updates(), 2, 1.0), "delay 2 and decay 1.0"),
        (lambda: Moments.of(Updates(), 2, -0.1), "delay 2 and decay -0.1"),
    ],
)
def test_bad_models(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.9])
def test_one_late_update_needs_no_memory(correlation):
    best = optimal_decay(Updates(correlation), 1)
    assert (best.decay, best.y, best.error) == (0, 1, 0)
