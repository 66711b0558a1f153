"""Figures of the theory: every register is drawn, and what was measured lies on the theory's lines."""

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments import theory as study
from layerpipe2.theory import derive, from_units
from layerpipe2.theory.stability import closed_form
from paper_figures import style
from paper_figures.figures import derivation, stability
from paper_figures.figures.derivation import derivation_figure


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_drawn_boxes_add_up_to_the_registers_of_the_graph():
    figure = derivation_figure(derive(2), columns=2, first=3)  # the last step: one boundary, delays 2 and 0
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
    assert (tmp_path / "stability.svg").stat().st_size > 10_000
