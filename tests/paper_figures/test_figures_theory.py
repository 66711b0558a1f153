"""Figures of the theory: legible, the same bytes each time, and what they measure lies on the theory's lines."""

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

DRAWN = ("per_layer", "grouped", "pipedream", "residual")


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", DRAWN)
def test_derivations_are_legible_and_stay_inside_the_page(name):
    figure = getattr(derivation, name)()
    assert figure.get_figwidth() == style.DOUBLE
    assert figure.get_figheight() < 9.5
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    figure.canvas.draw()
    page = figure.bbox
    for text in figure.findobj(Text):
        if text.get_text().strip():
            box = text.get_window_extent()
            assert page.x0 <= box.x0, text.get_text()
            assert box.x1 <= page.x1, text.get_text()


def test_same_derivation_same_bytes(tmp_path):
    (tmp_path / "again").mkdir()
    written = [style.save(derivation.per_layer(), folder / "a") for folder in (tmp_path, tmp_path / "again")]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


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
