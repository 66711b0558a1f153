"""Figures: one look per strategy, readable sizes, complete, and true to the records and to the theory."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments import theory as study
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.looks import look, ordered
from layerpipe2.strategies import STRATEGIES, find_strategy, raw_forms
from layerpipe2.strategies.moments import Updates
from layerpipe2.theory import reconstruction
from layerpipe2.theory.derivation import derive
from layerpipe2.theory.network import from_units
from layerpipe2.theory.stability import closed_form
from paper_figures import figures, style
from paper_figures.claims.training import assay
from paper_figures.figures import derivation, spiking, stability
from paper_figures.figures import reconstruction as figure_module
from tests import synthetic_records
from tests.sampling import slow

_FIXED = ["ema-0.5", "ema-0.8", "ema-0.95", "ema-0.99", "ema-0.999"]


def test_every_strategy_has_its_own_look() -> None:
    names = [*STRATEGIES, *raw_forms(), *_FIXED]
    looks = {(row.colour, row.marker, row.dash, row.filled) for row in map(look, names)}
    assert len(looks) == len({find_strategy(name).label for name in names}) == len(names)


def test_rules_differ_in_color_marker_and_line() -> None:
    for feature in ("colour", "marker", "dash"):
        assert len({getattr(look(name), feature) for name in STRATEGIES}) == len(STRATEGIES), feature


def test_order_does_not_depend_on_what_else_is_there() -> None:
    assert ordered(["ema-lsq", "latest", "stash", "latest"]) == ["stash", "latest", "ema-lsq"]
    assert ordered(reversed(list(STRATEGIES))) == ordered(STRATEGIES)


@slow
def test_figures_are_readable_at_their_final_size() -> None:
    units = {"mlp": 3, "vgg": 3, "resnet18": 4, "resnet-small": 4}
    records = synthetic_records.records(seeds=2, units=units, groups=(1, 2))
    judged = assay(records, ComparisonSettings())
    for stem, draw in figures.catalogue(
        records, synthetic_records.theory_tables(), judged, ComparisonSettings().level
    ).items():
        if not stem.startswith("curves_") or stem == "curves_mlp":
            _assert_readable(stem, draw)


def _assert_readable(stem: str, draw: Callable[[], Figure]) -> None:
    figure = draw()
    with style.context():
        figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width == style.DOUBLE
    assert height < 9.5
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 7
    beside = [figure._supxlabel, *figure.texts, *(axis.title for axis in figure.axes)]
    for text in texts if stem.startswith("derivation") else filter(None, beside):
        if text.get_text().strip():
            extent = text.get_window_extent()
            assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width, text.get_text()
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for i, box in enumerate(boxes):
        assert not any(box.shrunk(0.99, 0.99).overlaps(other) for other in boxes[:i])


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


def test_stability_measurements_lie_on_the_lines(tmp_path: Path):
    measured = pd.DataFrame(study.stability(momenta=(0.0,), delays=(4,), lengths=(2, 3)))
    near = 2 * (study.RATIO - 1)
    for row in measured[measured["panel"] == "bound"].itertuples():
        assert row.y == pytest.approx(closed_form(int(row.x)), rel=near)
    for row in measured[measured["panel"] == "chain"].itertuples():
        delays = [2, 0] if row.x == 2 else [4, 2, 0]
        delays = delays if row.series == "layerpipe2" else [d // 2 for d in delays]
        assert row.y == pytest.approx(stability.chain_bound(int(row.x), delays), rel=near)
    style.save(stability.stability(measured), tmp_path / "stability")
    text = (tmp_path / "stability.svg").read_text()
    assert len(text) > 10_000
    assert not re.search(r' d="[^"]*\.\d{3}', text)
    assert "scale(0.015625)" in text  # of letters, which no rounding may touch


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
    figure = figure_module.draw(rows(0.8, 0.25), "digits", "layerpipe2")
    momentum, fitted = figure.axes
    assert momentum.get_title() == "MLP, m = 0.9"
    assert fitted.get_title() == "fit: m = 0.80, 20 % white"
    lines = {line.get_color(): line for line in fitted.get_lines() if line.get_linestyle() != "None"}
    curve = dict(zip(*lines[look("ema-span").colour].get_data(), strict=True))
    assert curve[8] == pytest.approx(reconstruction.error("ema-span", 8, Updates(0.8, 0.25)), rel=0.01)


def test_figure_has_a_column_per_network():
    records = synthetic_records.records(seeds=2, units={"mlp": 3, "vgg": 3, "resnet-small": 4}, groups=(1, 2))
    figure = figure_module.reconstruction_theory(records)
    assert len(figure.axes) == 6
