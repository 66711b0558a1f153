"""The pair of average and newest update: exact where it must be, and what it costs."""

import math

import pytest
import torch

from layerpipe2 import make_strategy
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_plan
from layerpipe2.strategies import begin, count
from layerpipe2.strategies.moments import Updates
from layerpipe2.strategies.optimal import optimal_pair
from layerpipe2.strategies.pair import _row
from tests.strategies.recalling import delayed, recall_along, walk


@pytest.mark.parametrize("delay", [1, 2, 3, 9])
def test_exact_while_the_pipeline_fills(delay):
    path = walk(delay + 2)
    recalled = recall_along(make_strategy("pair-0.9"), path, delay)
    torch.testing.assert_close(recalled, delayed(path, delay), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strategy", ["pair-0", "pair-0.5", "pair-0.99"])
@pytest.mark.parametrize("delay", [1, 2])
def test_exact_for_short_delays(strategy, delay):
    path = walk(30)
    torch.testing.assert_close(
        recall_along(make_strategy(strategy), path, delay), delayed(path, delay), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("delay", [4, 14])
def test_measured_error_is_the_predicted_one_and_below_every_average(delay):
    errors = {}
    for strategy in ("pair-0.9", "ema-window", "ema-running", "ema-span", "ema-lsq"):
        path = walk(600, size=500, correlation=0.9)
        parts = (recall_along(make_strategy(strategy), path, delay), delayed(path, delay), path[:-1])
        recalled, true, latest = (part[100:] for part in parts)
        errors[strategy] = float((recalled - true).norm() / (latest - true).norm())
    assert errors["pair-0.9"] == pytest.approx(optimal_pair(Updates(0.9), delay).error, rel=0.02)
    assert all(errors["pair-0.9"] < 0.85 * error for name, error in errors.items() if name != "pair-0.9")


def test_memory():
    assert [make_strategy("pair-0.9").copies(d) for d in (0, 1, 2, 3, 14)] == [0, 0, 1, 1, 1]
    without = [make_strategy("pair-0.9").copies(d, momentum_buffer=False) for d in (0, 1, 2, 3, 14)]
    assert without == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "copies"),
    [({"momentum": 0.9}, 1), ({"momentum": 0.0}, 2), ({"nesterov": True}, 2), ({"optimizer": "adamw"}, 1)],
)
def test_memory_depends_on_what_the_optimizer_keeps(settings, copies):
    config = RunConfig(**{"network": "mlp", "strategy": "pair", "group_size": 1} | settings)
    plan = make_plan(config, (1, 8, 8), 10)
    *delayed, last = plan.parameters_per_stage
    assert plan.history_copies() == pytest.approx(copies * sum(delayed) / (sum(delayed) + last))


def test_updates_that_never_change_have_the_largest_correlation_of_the_table():
    same, nearly = (make_strategy("pair").coefficients(5, Updates(drift=drift)) for drift in (1e9, 1e6))
    assert same == nearly


@pytest.mark.parametrize("updates", [Updates(0.5, drift=2.0, ramp=-2.0), Updates(0.8, drift=0.5, ramp=-1.0)])
def test_the_theory_takes_the_correlation_that_the_method_would_measure(updates):
    m, size = updates.correlation, 10**6
    old, new = torch.randn(2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pair, zero = make_strategy("pair"), torch.zeros(size, dtype=torch.float64)
    state = begin(pair, zero, 5) | {"newest": updates.mean(1) + old}
    count(state, 5)
    pair.update(state, updates.mean(0) + m * old + math.sqrt(1 - m * m) * new, zero)
    gain, x, y = map(float, _row(state))
    assert pair.coefficients(5, updates) == pytest.approx((1 - gain, x, y))


def test_a_correlation_that_is_not_a_number_is_none():
    path = walk(12)
    path[:, 0] = math.nan
    recalled = recall_along(make_strategy("pair"), path, 4)
    assert recalled[:, 0].isnan().all()
    assert torch.equal(recalled[:, 1:], recall_along(make_strategy("pair-0"), path, 4)[:, 1:])
