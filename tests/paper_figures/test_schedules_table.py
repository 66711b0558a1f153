"""What is drawn and said from the table of schedules."""

import pandas as pd
import pytest

from layerpipe2.planning.reference import DEVICES
from layerpipe2.planning.schedules import SCHEDULES
from layerpipe2.planning.schedules.compare import DEVICE, compare
from paper_figures.claims.costs import layerpipe_in_our_model
from paper_figures.figures import gantt, schedules
from paper_figures.records.theory import Theory
from paper_figures.tables import theory as tables


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(compare(("mlp", "alexnet"), (3, 4, 9)))


def test_figures_are_complete(table):
    titles = {axis.get_title(loc="left") for axis in gantt.equal().axes}
    assert titles == {SCHEDULES[n].label for n in SCHEDULES if n != "layerpipe"}
    assert [axis.get_title() for axis in schedules.speeds(table).axes[:2]] == ["MLP 8 × 1024", "AlexNet"]


def test_gantt_of_unequal_layers_shows_halves():
    titles = [axis.get_title(loc="left") for axis in gantt.unequal().axes]
    assert titles == [
        "PipeDream: a batch every 24",
        "LayerPipe2: a batch every 24",
        "LayerPipe (our reading): a batch every 17",
    ]
    legend = [t.get_text() for t in gantt.unequal().legends[0].get_texts()]
    assert legend == ["forward", "activation gradient", "half of it", "weight gradient", "whole backward pass"]


def test_sentence_and_table_take_their_numbers_from_the_cases(table):
    fine = table[(table["schedule"] == "layerpipe") & (table["processors"] == 9)]
    sentence = layerpipe_in_our_model(table)[0]
    assert f"9 processors: {100 * (fine['speed'].mean() - 1):+.0f} % on average" in sentence
    assert "n=2)" in sentence
    assert "+25 % on average, up to +80 %" in sentence
    none = table.head(0)
    wide = tables.speeds(Theory(none, none, none, table, none))
    assert list(wide.columns) == ["network", "schedule", "P=3", "P=4", "P=9"]
    assert set(wide["schedule"]) == {SCHEDULES[name].label for name in SCHEDULES if name != "pipedream"}
    assert (wide.loc[wide["schedule"] == "interleaved 1F1B", "P=9"] == "–").all()


def test_whether_the_model_is_above_the_abstract_is_computed(table):
    assert "the average is above the abstract's" in layerpipe_in_our_model(table)[0]
    slow = table.assign(speed=table["speed"].clip(upper=1.1))
    assert "the average is not above the abstract's, and the largest gain is not" in layerpipe_in_our_model(slow)[0]


def test_devices_of_the_sensitivity_figure():
    assert DEVICES["128 × 128, output st."] is DEVICE
    assert len(set(DEVICES)) == 6
