"""Errors of the strategies: against their own code run on random updates, the table's limits, and back from errors."""

import math

import pytest
import torch

from layerpipe2 import UserError, make_strategy
from layerpipe2.strategies import DECAY_RULES, STRATEGIES, begin, count
from layerpipe2.strategies.moments import Updates
from layerpipe2.strategies.optimal import optimal_pair
from layerpipe2.theory import reconstruction
from layerpipe2.theory.optimal import optimal_decay, optimal_gain, ordinary

CLOSED = [name for name, row in STRATEGIES.items() if row.make().coefficients(3, Updates()) is not None]
AVERAGES = [*(name for name in CLOSED if STRATEGIES[name].family == "average"), "pair-0.9", "pair-0"]
WEIGHTS, STEPS = 5000, 200


def draw(updates):
    """Updates (STEPS, WEIGHTS), oldest first, and the gradients times lr whose momentum they are."""
    m = updates.correlation
    gradients = torch.randn(STEPS, WEIGHTS, dtype=torch.float64) * math.sqrt(1 - m**2)
    noise = gradients.clone()
    noise[0] /= math.sqrt(1 - m**2)  # stationary from the start
    for t in range(1, STEPS):
        noise[t] += m * noise[t - 1]
    means = torch.tensor([[updates.mean(age)] for age in reversed(range(STEPS))], dtype=torch.float64)
    return noise + math.sqrt(updates.white) * torch.randn_like(noise) + means, gradients


def measured(strategy, delay, applied, gradients):
    """Relative error of the strategy's own code after STEPS updates."""
    latest, named = torch.zeros(WEIGHTS, dtype=torch.float64), make_strategy(strategy)
    state = begin(named, latest, delay)
    for update, gradient in zip(applied, gradients, strict=True):
        if "scaled" in state:  # what a raw average notes of the optimizer, lr x gradient
            state["scaled"].copy_(gradient)
        named.update(state, before=update, after=latest)
        count(state, delay)
    window = applied[-delay:].sum(0)
    recalled = named.backward(state, latest, window)
    return float((recalled - window).norm() / window.norm())


@pytest.mark.parametrize("updates", [Updates(), Updates(0.9), Updates(0.5, white=0.5), Updates(0.5, 0, 1.0, 0.05)])
@pytest.mark.parametrize("delay", [3, 14])
def test_strategies_on_random_updates(updates, delay):
    drawn = draw(updates)
    for strategy in AVERAGES:
        expected = reconstruction.error(strategy, delay, updates)
        assert measured(strategy, delay, *drawn) == pytest.approx(expected, rel=0.05), strategy


@pytest.mark.parametrize("updates", [Updates(), Updates(0.9), Updates(0.5, white=0.5), Updates(0.8, drift=2.0)])
def test_pair_finds_the_correlation(updates):
    error = measured("pair", 8, *draw(updates))
    assert error == pytest.approx(reconstruction.error("pair", 8, updates), rel=0.05)
    assert error < 1.02 * min(reconstruction.error(strategy, 8, updates) for strategy in AVERAGES)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_averages_of_raw_gradients_under_momentum(momentum):
    drawn = draw(Updates(momentum))
    for strategy in ("ema-window-raw", "ema-span-raw", "ema-0.9-raw"):
        expected = reconstruction.error(strategy, 8, Updates(momentum))
        assert measured(strategy, 8, *drawn) == pytest.approx(expected, rel=0.05), strategy


def test_exact_strategies_and_the_latest_weights():
    for updates in (Updates(), Updates(0.9, drift=1)):
        assert reconstruction.error("latest", 5, updates) == 1
        assert reconstruction.error("stash", 5, updates) == reconstruction.error("update-window", 5, updates) == 0


def test_white_errors_follow_the_short_formula():
    for delay in (1, 4, 40):
        for b in (0.0, 0.5, 0.9):
            squared = delay * (1 - b) / (1 + b) - 2 * (1 - b**delay) + 1
            assert ordinary(Updates(), delay, b, delay).error == pytest.approx(math.sqrt(max(0, squared)), abs=1e-7)


def white_limit(z, gain=1.0):
    """Error of decay ``1 - z/n`` with gain ``gain * n`` for white updates as ``n`` grows, see ``theory.optimal``."""
    return math.sqrt(1 + 2 * gain * math.expm1(-z) + gain**2 * z / 2)


def test_limits_of_the_table():
    limits = {"window": 2 / math.e - 0.5, "running": 2 / math.e - 0.5, "span": 2 / math.e**2, "lsq": math.log(2) - 0.5}
    places = {"window": 1.0, "running": 1.0, "span": 2.0, "lsq": 2 * math.log(2)}
    for rule, squared in limits.items():
        assert white_limit(places[rule]) == pytest.approx(math.sqrt(squared), abs=1e-12)
        assert reconstruction.error(f"ema-{rule}", 10**5, Updates()) == pytest.approx(math.sqrt(squared), abs=1e-4)


def test_the_rule_lsq_is_the_best_decay_for_white_updates_and_tends_to_its_limit():
    for n in (*range(1, 9), 16, 100, 10**4):
        best = optimal_decay(Updates(), n)
        assert DECAY_RULES["lsq"](n) == pytest.approx(best.decay, abs=1e-7)
        assert reconstruction.error("ema-lsq", n, Updates()) <= best.error + 1e-12
    assert n * (1 - best.decay) == pytest.approx(2 * math.log(2), rel=1e-3)
    assert best.error == pytest.approx(white_limit(2 * math.log(2)), abs=1e-4)


@pytest.mark.parametrize("found", [optimal_gain, optimal_pair])
def test_best_gain_of_long_windows_is_above_one(found):
    n = 10**4
    best = found(Updates(), n)
    z = n * (1 - best.decay)
    assert math.exp(z) == pytest.approx(1 + 2 * z, rel=1e-3)
    gain = (best.x + best.y) / n
    assert gain == pytest.approx(1.1387, abs=1e-3)
    assert best.error == pytest.approx(white_limit(z, gain), abs=1e-3)
    assert best.error == pytest.approx(0.4307, abs=2e-4)


@pytest.mark.parametrize(("correlation", "white"), [(0.837, 0.0), (0.95, 3.0), (0.0, 0.0)])
def test_updates_are_found_again_in_the_errors(correlation, white):
    true = Updates(correlation, white)
    rows = [
        {"strategy": s, "delay": d, "relative_error": reconstruction.error(s, d, true)}
        for s in (*AVERAGES, "latest", "update-window")
        for d in (2, 4, 8)
    ]
    found = reconstruction.fitted(rows)
    assert found.correlation == pytest.approx(correlation, abs=2e-3)
    assert found.white == pytest.approx(white, abs=2e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reconstruction.error("ema-best", 3, Updates()), "unknown strategy 'ema-best'"),
        (lambda: reconstruction.estimator("stash", 3, Updates()), "strategy 'stash' keeps the past itself"),
        (lambda: reconstruction.fitted([]), "no reconstruction error to fit"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
