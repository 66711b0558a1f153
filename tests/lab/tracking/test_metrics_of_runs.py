"""The numbers over a cell's seeds."""

import pytest

from layerpipe2.lab.tracking.metrics import Point, mean_curves, won_back


def _cell(*accuracies, first=0):
    """Seed -> accuracy, with seeds from ``first`` on."""
    return {str(first + place): value for place, value in enumerate(accuracies)}


def test_what_is_won_back_is_a_share_of_the_loss():
    cells = {"stash": _cell(90, 93), "latest": _cell(80, 82), "ema-window": _cell(86, 88), "pair": _cell(93, 96)}
    assert won_back(cells) == {"stash": 100, "latest": 0, "ema-window": 57.1, "pair": 128.6}


def test_a_share_is_that_of_the_seeds_that_all_three_have():
    cells = {"stash": _cell(90, 93, 50), "latest": _cell(80, 82, 30), "ema-window": _cell(86, first=1)}
    assert won_back(cells) == {"stash": 100, "latest": 0, "ema-window": round(100 * 4 / 11, 1)}
    assert "pair" not in won_back(cells | {"pair": _cell(86, first=7)})


@pytest.mark.parametrize(
    "latest",
    [
        _cell(91, 94),  # better than stashing
        _cell(90.1, 90),  # worse by less than chance
        _cell(80),  # one seed has no spread
        _cell(80, 82, None),  # a run diverged
    ],
)
def test_there_is_no_share_of_a_loss_that_is_not_there(latest):
    assert won_back({"stash": _cell(90, 93, 92), "latest": latest, "ema-window": _cell(86, 88, 89)}) == {}


def test_a_rule_with_a_diverged_run_has_no_share():
    cells = {"stash": _cell(90, 93), "latest": _cell(80, 82), "ema-window": _cell(86, None)}
    assert set(won_back(cells)) == {"stash", "latest"}


def test_mean_curves_end_where_the_first_run_does():
    runs = [[Point("epoch/val_loss", 1.0, 0), Point("epoch/val_loss", 0.5, 1)], [Point("epoch/val_loss", 2.0, 0)]]
    assert mean_curves(runs) == [Point("epoch/val_loss", 1.5, 0)]
