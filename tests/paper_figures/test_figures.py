"""Figures are true to the records and to the theory, and every strategy has one look."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments import theory as study
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import STRATEGIES, find_strategy, raw_forms
from layerpipe2.strategies.moments import Updates
from layerpipe2.theory import reconstruction
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.network import from_units
from layerpipe2.theory.stability import closed_form
from paper_figures.accuracy.answers import _differences
from paper_figures.derivation import diagrams as derivation
from paper_figures.reconstruction import errors
from paper_figures.spiking import neuron as spiking
from paper_figures.stability.bounds import chain_bound
from tests.lab.judging.test_share_rule import LATEST, SEEDS, STASH, runs


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_drawn_boxes_add_up_to_the_registers_of_the_graph():
    figure = derivation.derivation_figure(derive(2), columns=2, first=3)  # the last step: one boundary, delays 2 and 0
    boxes = [text for text in labels(figure) if re.fullmatch(r"\d*D", text)]
    # targets, results, two weight registers, activation and gradient on the boundary; stage 0: input, kept, old weights
    assert sorted(boxes) == ["2D"] * 3 + ["D"] * 6


def test_the_residual_drawing_shows_the_shortcuts_register():
    boxes = [text for text in labels(derivation.residual()) if re.fullmatch(r"\d*D", text)]
    last = derive(from_units(["layer", "block", "layer"])).pipeline
    assert last.registers["A1.add", "A0", "gradient"] == 1
    # The last drawing: on each boundary an activation and a gradient, and one more for the shortcut's gradient.
    assert boxes.count("D") == 3 * len(last.operations) + 5
    assert "$A_{1+}$" in labels(derivation.residual())


def test_a_drawn_neuron_fires_above_its_threshold_and_its_gradient_goes_back_in_time():
    membranes, rasters, gradients = (axis.lines for axis in spiking.neuron().axes)
    for membrane, raster, gradient in zip(membranes, rasters, gradients, strict=False):
        above = np.flatnonzero(np.asarray(membrane.get_ydata()) > 1)
        assert above.tolist() == np.asarray(raster.get_xdata()).tolist() != []
        assert not np.asarray(gradient.get_ydata())[spiking.ASKED + 1 :].any()
        assert np.asarray(gradient.get_ydata())[: spiking.ASKED + 1].any()


def test_stability_measurements_lie_on_the_lines():
    measured = pd.DataFrame(study.stability(momenta=(0.0,), delays=(4,), lengths=(2, 3)))
    near = 2 * (study.RATIO - 1)
    for row in measured[measured["panel"] == "bound"].itertuples():
        assert row.y == pytest.approx(closed_form(int(row.x)), rel=near)
    for row in measured[measured["panel"] == "chain"].itertuples():
        delays = [2, 0] if row.x == 2 else [4, 2, 0]
        delays = delays if row.series == "layerpipe2" else [d // 2 for d in delays]
        assert row.y == pytest.approx(chain_bound(int(row.x), delays), rel=near)


def rows(correlation: float, white: float) -> pd.DataFrame:
    """Errors exactly as theory has them, of two seeds."""
    strategies = ("ema-window", "ema-span", "ema-lsq", "pair", "pair-0.9", "update-window", "latest", "ema-span-raw")
    cases = pd.DataFrame(itertools.product((0, 1), (0, 2, 4, 8), strategies), columns=["seed", "delay", "strategy"])
    updates = Updates(correlation, white)
    errors = [
        reconstruction.error(row.strategy, row.delay, updates) if row.delay else None for row in cases.itertuples()
    ]
    return cases.assign(network="mlp", momentum=0.9, n=5, relative_error=errors)


def test_fitted_theory_passes_through_its_own_errors():
    figure = errors.draw(rows(0.8, 0.25), "digits", "layerpipe2")
    momentum, fitted = figure.axes
    assert momentum.get_title() == "MLP, m = 0.9"
    assert fitted.get_title() == "fit: m = 0.80, 20 % white"
    lines = {line.get_color(): line for line in fitted.get_lines() if line.get_linestyle() != "None"}
    curve = dict(zip(*lines[look("ema-span").colour].get_data(), strict=True))
    assert curve[8] == pytest.approx(1, rel=0.01)
    other = next(line for line in momentum.get_lines() if line.get_color() == look("ema-span").colour)
    wrong = dict(zip(*other.get_data(), strict=True))
    theory = [reconstruction.error("ema-span", 8, updates) for updates in (Updates(0.8, 0.25), Updates(0.9))]
    assert wrong[8] == pytest.approx(theory[0] / theory[1], rel=1e-6)


def test_every_strategy_has_its_own_look() -> None:
    names = [*STRATEGIES, *raw_forms(), *(f"ema-0.{n}" for n in (5, 8, 95, 99, 999))]
    looks = {(row.colour, row.marker, row.dash, row.filled) for row in map(look, names)}
    assert len(looks) == len({find_strategy(name).label for name in names}) == len(names)
    for feature in ("colour", "marker", "dash"):
        assert len({getattr(look(name), feature) for name in STRATEGIES}) == len(STRATEGIES), feature


def test_order_does_not_depend_on_what_else_is_there() -> None:
    assert ordered(["ema-lsq", "latest", "stash", "latest"]) == ["stash", "latest", "ema-lsq"]
    assert ordered(reversed(list(STRATEGIES))) == ordered(STRATEGIES)


def test_the_picture_shows_differences_from_sequential_training_of_the_same_seed() -> None:
    table = runs(latest=np.where(np.arange(SEEDS) < 2, np.nan, LATEST)).assign(history_copies=1.5)
    rows = _differences(table, 0.05).set_index("strategy")
    assert rows.loc["stash", "mean"] == pytest.approx(np.mean(STASH - 62))
    assert rows.loc["stash", "low"] < rows.loc["stash", "mean"] < rows.loc["stash", "high"]
    assert (rows.loc["latest", "lost"], rows.loc["latest", "of"], rows.loc["latest", "n"]) == (2, SEEDS, SEEDS - 2)
