"""The numbers over a cell's seeds."""

import pytest

from layerpipe2.tracking.metrics import TEST, Point, mean_curves, of_cell, won_back


def _cell(*accuracies, missing=0):
    return of_cell([{TEST: value} for value in accuracies] + [{}] * missing)


def test_what_is_won_back_is_a_share_of_the_loss():
    cells = {"stash": _cell(90, 92), "latest": _cell(80, 82), "ema-window": _cell(86, 88), "pair": _cell(93, 95)}
    assert won_back(cells) == {"stash": 100, "latest": 0, "ema-window": 60, "pair": 130}


@pytest.mark.parametrize(
    "latest",
    [
        _cell(91, 93),  # better than stashing
        _cell(90, 91.8),  # worse by less than chance
        _cell(80),  # one seed has no spread
        _cell(80, 82, missing=1),  # a run diverged
    ],
)
def test_there_is_no_share_of_a_loss_that_is_not_there(latest):
    assert won_back({"stash": _cell(90, 92), "latest": latest, "ema-window": _cell(86, 88)}) == {}


def test_a_rule_with_a_diverged_run_has_no_share():
    cells = {"stash": _cell(90, 92), "latest": _cell(80, 82), "ema-window": _cell(86, missing=1)}
    assert set(won_back(cells)) == {"stash", "latest"}


def test_mean_curves_end_where_the_first_run_does():
    runs = [[Point("epoch/val_loss", 1.0, 0), Point("epoch/val_loss", 0.5, 1)], [Point("epoch/val_loss", 2.0, 0)]]
    assert mean_curves(runs) == [Point("epoch/val_loss", 1.5, 0)]
