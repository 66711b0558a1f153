"""The look of figures: one style per strategy, readable sizes, an axis for accuracies near 100 per cent."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic_records
from matplotlib.text import Text

from layerpipe2.history import STRATEGIES, find_strategy, raw_forms
from paper_figures import figures, style
from paper_figures.accuracy_axis import AccuracyAxis

_FIXED = ["ema-0.5", "ema-0.8", "ema-0.95", "ema-0.99", "ema-0.999"]


def test_every_strategy_has_its_own_look() -> None:
    rows = [find_strategy(name) for name in (*STRATEGIES, *raw_forms(), *_FIXED)]
    looks = {(row.colour, row.marker, row.dash, row.filled) for row in rows}
    assert len(looks) == len({row.label for row in rows}) == len(rows)


def test_rules_differ_in_color_marker_and_line() -> None:
    for feature in ("colour", "marker", "dash"):
        assert len({getattr(row, feature) for row in STRATEGIES.values()}) == len(STRATEGIES), feature


def test_variants_are_hollow() -> None:
    faces = {name: style.line(name)["markerfacecolor"] for name in ("ema-span", "ema-span-raw", "ema-span-warm")}
    assert faces == {"ema-span": "#56b4e9", "ema-span-raw": "white", "ema-span-warm": "white"}


def test_order_does_not_depend_on_what_else_is_there() -> None:
    assert style.ordered(["ema-lsq", "latest", "stash", "latest"]) == ["stash", "latest", "ema-lsq"]
    assert style.ordered(reversed(list(STRATEGIES))) == style.ordered(STRATEGIES)


UNITS = {"mlp": 3, "vgg": 3, "resnet18": 4, "resnet-small": 4}
DRAWN = figures.catalogue(
    synthetic_records.records(seeds=2, units=UNITS, groups=(1, 2)), synthetic_records.theory_tables()
)


@pytest.mark.parametrize("stem", [name for name in DRAWN if not name.startswith("curves_")] + ["curves_mlp"])
def test_figures_are_readable_at_their_final_size(stem: str) -> None:
    figure = DRAWN[stem]()
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


@pytest.mark.parametrize(
    "accuracies", [[97.0, 99.1, 98.7], [10.0, 97.0], [70.1, 71.3, 70.6], [100.0, 99.5], [55.0], []]
)
def test_error_scale_orders_and_inverts(accuracies: list[float]) -> None:
    scale = AccuracyAxis.spanning(accuracies)
    places = scale.forward(sorted(accuracies))
    assert np.all(np.diff(places) > 0)
    below_top = [a for a in accuracies if 100 - a > scale.floor]
    np.testing.assert_allclose(scale.inverse(scale.forward(below_top)), below_top, rtol=0, atol=1e-9)
    assert scale.forward(scale.strip) < scale.low
