"""Weight histories by themselves: memory, exactness, bias."""

import pytest
import torch

from layerpipe2 import STRATEGIES, make_strategy
from tests.strategies.recalling import delayed, line, recall_along, walk

# `pair` weighs its two buffers for the least squared error, which shrinks what it recalls: not exact on equal updates.
UNBIASED = [name for name, row in STRATEGIES.items() if row.family in ("average", "window")]


@pytest.mark.parametrize("delay", [1, 2, 5, 18])
def test_the_window_rule_is_exact_while_the_pipeline_fills(delay):
    path = walk()
    recalled = recall_along(make_strategy("ema-window"), path, delay)[: delay + 1]
    torch.testing.assert_close(recalled, delayed(path, delay)[: delay + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("delay", [1, 2, 7])
@pytest.mark.parametrize("strategy", UNBIASED)
def test_constant_updates_are_recalled_exactly_from_the_start(strategy, delay):
    """No start-up bias: the average of equal updates is that update after one of them."""
    recalled = recall_along(make_strategy(strategy), line(30), delay)
    torch.testing.assert_close(recalled, delayed(line(30), delay), rtol=0, atol=1e-12)


@pytest.mark.parametrize("delay", [2, 6, 14])
def test_the_span_rule_has_no_bias_where_updates_drift_along_a_line(delay):
    t = torch.arange(400, dtype=torch.float64)[:, None]
    errors = {}
    for strategy in ("ema-span", "ema-window", "ema-running", "ema-lsq", "ema-0.9"):
        errors[strategy] = float((recall_along(make_strategy(strategy), t * t, delay)[-1] - (398 - delay) ** 2).abs())
    assert errors.pop("ema-span") < 1e-6
    assert all(error > 0.1 for error in errors.values()), errors


def test_modelled_copies():
    copies = {s: [make_strategy(s).copies(d) for d in (0, 1, 18)] for s in STRATEGIES}
    assert copies["stash"] == copies["update-window"] == [0, 1, 18]
    assert copies["latest"] == [0, 0, 0]
    assert all(copies[name] == [0, 1, 1] for name in ("ema-0.9", "ema-window", "ema-running", "ema-span", "ema-lsq"))
