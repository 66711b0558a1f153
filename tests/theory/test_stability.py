"""Stability bounds: closed form, companion matrix and the training engine agree."""

import math

import numpy as np
import pytest

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.theory.stability import (
    bisect_step,
    closed_form,
    coupled_growth,
    growth,
    largest_stable_coupled_step,
    largest_stable_shared_step,
    largest_stable_step,
    linear_chain_hessian,
)
from layerpipe2.theory.stability_simulation import chain_growth, quadratic_growth


@pytest.mark.parametrize(("delay", "bound"), [(0, 2.0), (1, 1.0), (2, 0.618034), (3, 0.445042), (14, 0.108278)])
def test_known_bounds(delay, bound):
    assert closed_form(delay) == pytest.approx(bound, abs=5e-7)
    assert closed_form(delay) == pytest.approx(2 * math.sin(math.pi / (2 * (2 * delay + 1))), rel=1e-14)
    assert largest_stable_step(delay) == pytest.approx(bound, abs=5e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("delay", [0, 1, 2, 5, 18])
def test_phase_condition_equals_bisection(delay, momentum):
    assert largest_stable_step(delay, momentum) == pytest.approx(closed_form(delay, momentum), rel=1e-8)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_stable_steps_are_one_interval(delay, momentum, nesterov):
    bound = largest_stable_step(delay, momentum, nesterov)
    assert all(growth(s, delay, momentum, nesterov) < 1 for s in np.linspace(0.001, 0.999, 60) * bound)
    assert all(growth(s, delay, momentum, nesterov) > 1 for s in np.linspace(1.001, 4, 60) * bound)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_shares_of_one_curvature_are_exact_where_the_hessian_has_rank_one(momentum):
    hessian, delays = linear_chain_hessian([1.0, 0.5, 1.3, 0.8]), [6, 4, 2, 0]
    curvature = float(np.trace(hessian))
    shares = np.diag(hessian) / curvature
    bound = largest_stable_shared_step(shares, delays, momentum)
    assert bound == pytest.approx(curvature * largest_stable_coupled_step(hessian, delays, momentum), rel=1e-6)
    assert bound > 1.2 * largest_stable_step(6, momentum)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_below_the_bound_of_the_largest_delay_every_hessian_is_stable(momentum):
    generator = np.random.default_rng(3)
    for _ in range(20):
        root = generator.normal(size=(5, 5))
        hessian, delays = root @ root.T, [7, *map(int, generator.integers(0, 7, size=4))]
        step = 0.999 * largest_stable_step(7, momentum) / np.linalg.eigvalsh(hessian)[-1]
        assert coupled_growth(step, hessian, delays, momentum) < 1
        shares = generator.dirichlet(np.ones(5))
        assert largest_stable_shared_step(shares, delays, momentum) >= largest_stable_step(7, momentum) * (1 - 1e-8)
        shared = largest_stable_shared_step(shares, delays, 0.5, nesterov=True)
        assert shared >= largest_stable_step(7, 0.5, nesterov=True) * (1 - 1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("delay", [0, 3])
def test_engine_diverges_where_theory_says(delay, momentum):
    bound = closed_form(delay, momentum)
    steps = np.array([0.9, 0.97, 0.995, 1.005, 1.03, 1.1]) * bound
    measured = quadratic_growth(steps, delay, momentum, updates=1200)
    assert list(measured > 1) == [False, False, False, True, True, True]
    expected = [growth(s, delay, momentum) for s in steps]
    assert measured == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("convention", "strategy"), [("layerpipe2", "stash"), ("layerpipe2", "latest"), ("pipedream", "ema-window")]
)
def test_linear_network_in_the_engine_with_unequal_delays(convention, strategy):
    weights = [1.1, 0.9, 1.2, 0.8]
    delays = getattr(Delays, convention)(4).per_stage
    hessian = linear_chain_hessian(weights)
    bound = largest_stable_coupled_step(hessian, delays, 0.5)
    steps = np.array([0.95, 0.99, 1.01, 1.05]) * bound
    measured = chain_growth(weights, delays, steps, strategy=strategy, momentum=0.5)
    assert list(measured > 1) == [False, False, True, True]
    assert measured == pytest.approx([coupled_growth(s, hessian, delays, 0.5) for s in steps], abs=1e-3)


def test_uncoupled_stages_are_bounded_one_by_one():
    bound = largest_stable_coupled_step(np.diag([0.5, 1.0, 3.0]), [6, 2, 0])
    assert bound == pytest.approx(min(closed_form(6) / 0.5, closed_form(2), 2 / 3), rel=1e-7)
    equal = largest_stable_coupled_step(linear_chain_hessian([1.0] * 4), [3] * 4)
    assert equal * 4 == pytest.approx(closed_form(3), rel=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: largest_stable_step(-1), "delay is -1"),
        (lambda: largest_stable_step(1, momentum=1.0), "momentum is 1.0"),
        (lambda: closed_form(True), "delay is True"),
        (lambda: largest_stable_coupled_step([[1.0]], [0, 1]), r"hessian has shape \[1, 1\] for 2 delays"),
        (lambda: largest_stable_coupled_step([[0.0]], [0]), "hessian is zero"),
        (lambda: largest_stable_coupled_step([[-1.0]], [1]), "no stable step"),
        (lambda: bisect_step(lambda s: False, 1.0), "no stable step"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
