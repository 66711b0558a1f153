"""The numbers over a cell's seeds."""

from layerpipe2.lab.tracking.metrics import Point, mean_curves


def test_mean_curves_end_where_the_first_run_does():
    runs = [[Point("epoch/val_loss", 1.0, 0), Point("epoch/val_loss", 0.5, 1)], [Point("epoch/val_loss", 2.0, 0)]]
    assert mean_curves(runs) == [Point("epoch/val_loss", 1.5, 0)]
