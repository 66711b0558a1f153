"""The figure of theory against measurement: complete, and true to errors that follow the theory."""

import pandas as pd
import pytest
import synthetic_records

from layerpipe2.history import find_strategy
from layerpipe2.history.moments import Updates
from layerpipe2.theory import reconstruction
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


def test_figure_has_a_column_per_network():
    records = synthetic_records.records(seeds=2, units={"mlp": 3, "vgg": 3, "resnet-small": 4}, groups=(1, 2))
    figure = figure_module.reconstruction_theory(records)
    assert len(figure.axes) == 6
