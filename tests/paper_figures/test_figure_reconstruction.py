"""The figure of theory against measurement: readable, complete, and true to errors that follow the theory."""

import pandas as pd
import pytest
import synthetic_records
from matplotlib.text import Text

from layerpipe2.history import find_strategy
from layerpipe2.history.moments import Updates
from layerpipe2.theory import reconstruction
from paper_figures import style
from paper_figures.figures import reconstruction_theory as figure_module


def rows(correlation: float, white: float) -> pd.DataFrame:
    """Errors exactly as theory has them, of two seeds."""
    strategies = ("ema-window", "ema-span", "ema-lsq", "pair", "pair-0.9", "update-window", "latest", "ema-span-raw")
    return pd.DataFrame(
        {"network": "mlp", "momentum": 0.9, "seed": seed, "delay": delay, "strategy": strategy, "n": 5,
         "relative_error": reconstruction.error(strategy, delay, Updates(correlation, white)) if delay else None}
        for seed in (0, 1) for delay in (0, 2, 4, 8) for strategy in strategies
    )  # fmt: skip


def test_fitted_theory_passes_through_its_own_errors():
    figure = figure_module.draw(rows(0.8, 0.25), "digits", "layerpipe2")
    momentum, fitted = figure.axes
    assert momentum.get_title() == "MLP, m = 0.9"
    assert fitted.get_title() == "fit: m = 0.80, 20 % white"
    lines = {line.get_color(): line for line in fitted.get_lines() if line.get_linestyle() != "None"}
    curve = dict(zip(*lines[find_strategy("ema-span").colour].get_data(), strict=True))
    assert curve[8] == pytest.approx(reconstruction.error("ema-span", 8, Updates(0.8, 0.25)), rel=0.01)


def test_figure_is_readable_and_has_a_column_per_network():
    records = synthetic_records.records(seeds=2, units={"mlp": 3, "vgg": 3, "resnet-small": 4}, groups=(1, 2))
    figure = figure_module.reconstruction_theory(records)
    with style.context():
        figure.draw_without_rendering()
    assert len(figure.axes) == 6
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    titles = [axis.title for axis in figure.axes]
    extents = [text.get_window_extent() for text in (*titles, figure._supxlabel)]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in extents)
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    for i, box in enumerate(boxes):
        assert not any(box.shrunk(0.99, 0.99).overlaps(other) for other in boxes[:i])
