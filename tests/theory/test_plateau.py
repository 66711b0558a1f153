"""Growth on a plateau: against the delayed recursion with the strategies' own code, and three couplings of stages."""

import math

import numpy as np
import pytest
import torch

from layerpipe2 import UserError, make_strategy
from layerpipe2.strategies import begin, count
from layerpipe2.theory.plateau import RECALLED, growth

DELAY = 60


def simulated(strategy, k):
    """Growth per delay of ``v``, half of whose curvature is seen late, half as ``strategy`` recalls it."""
    path = [torch.ones(1, dtype=torch.float64)]
    made = make_strategy(strategy)
    state = begin(made, path[0], DELAY)
    for t in range(12 * DELAY):
        used = path[max(0, t - DELAY)]
        path.append(path[t] + k / (2 * DELAY) * (used + made.backward(state, path[t], used)))
        made.update(state, path[t], path[t + 1])
        count(state, DELAY)
    return float((path[-1] / path[-1 - DELAY]).log())


@pytest.mark.parametrize("strategy", RECALLED)
@pytest.mark.parametrize("k", [0.3, 1.0, 2.5])
def test_the_delayed_recursion_grows_as_it_says(strategy, k):
    assert simulated(strategy, k) == pytest.approx(growth(strategy, k), rel=0.03)


@pytest.mark.parametrize("k", [1e-3, 0.3, 1.0, 3.0, 10.0])
def test_the_order_of_the_strategies(k):
    found = [growth(name, k) for name in ("latest", "ema-window", "ema-lsq", "stash", "ema-span")]
    assert found == sorted(found, reverse=True)
    assert found[3] * math.exp(found[3]) == pytest.approx(k)


@pytest.mark.parametrize(("p", "q"), [(0.5, 1.0), (0.3, 0.4)])
def test_the_mean_that_a_coupling_of_stages_makes(p, q):
    def gain(coupling):
        lower, upper = np.tril(coupling, -1), np.triu(coupling, 1)
        return abs(np.linalg.eigvals(p * lower + q * upper)).max() / np.linalg.eigvalsh(coupling).max()

    neighbours, alike = np.eye(9, k=1) + np.eye(9, k=-1), np.ones((400, 400)) - np.eye(400)
    assert gain(neighbours) == pytest.approx(math.sqrt(p * q))
    assert gain(alike) == pytest.approx((p - q) / math.log(p / q), rel=0.01)
    assert gain(alike) <= (p + q) / 2


@pytest.mark.parametrize(
    ("call", "message"), [(lambda: growth("pair", 1.0), "isn't known"), (lambda: growth("stash", -1.0), "k is -1")]
)
def test_what_it_refuses(call, message):
    with pytest.raises(UserError, match=message):
        call()
