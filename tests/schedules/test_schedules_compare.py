"""The table of schedules, and what is drawn and said from it."""

import math

import pandas as pd
import pytest
from matplotlib.text import Text

from layerpipe2.costs import FlopDevice
from layerpipe2.errors import UserError
from layerpipe2.schedules import SCHEDULES
from layerpipe2.schedules.compare import DEVICE, compare
from paper_figures import claims_costs, figure_schedules, tables_costs


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(compare(("mlp", "alexnet"), (3, 4, 9)))


def test_every_case_is_there(table):
    assert set(table["schedule"]) == set(SCHEDULES)
    missing = table[table["schedule"] == "interleaved"]["processors"]
    assert set(missing) == {3, 4}  # nine processors would need eighteen units
    assert not table.isna().any(axis=None)


def test_speeds_are_relative_to_pipedream_and_no_processor_works_more_than_always(table):
    assert (table.loc[table["schedule"] == "pipedream", "speed"] == 1).all()
    assert table["utilisation"].between(0, 1).all()
    base = table[table["schedule"] == "pipedream"].set_index(["network", "processors"])
    for row in table.itertuples():
        reference = base.loc[(row.network, row.processors)]
        assert math.isclose(row.speed, reference["period"] / row.period)
        # Half a product can take more than half the cycles of an array of fixed size: never less.
        work = row.utilisation / reference["utilisation"] / row.speed
        assert 1 - 1e-9 <= work <= (1.05 if row.schedule == "layerpipe" else 1 + 1e-9)


def test_whole_stages_use_no_more_processors_than_units(table):
    used = table.set_index(["network", "processors", "schedule"])["used"]
    assert used["alexnet", 9, "pipedream"] == 8
    assert used["alexnet", 9, "layerpipe"] == 9


def test_free_links_make_the_two_asynchronous_schedules_equal():
    rows = compare(("mlp",), (5,), ("pipedream", "layerpipe2"), FlopDevice(1e12))
    assert rows[0]["period"] == pytest.approx(rows[1]["period"])
    assert rows[0]["megabytes"] == rows[1]["megabytes"]


def test_bad_requests_are_named():
    with pytest.raises(UserError, match="unknown schedule 'dapple'"):
        compare(("mlp",), (3,), ("dapple",))
    with pytest.raises(UserError, match="number of processors is 0"):
        compare(("mlp",), (0,))
    with pytest.raises(UserError, match="unknown network 'lenet'"):
        compare(("lenet",), (3,))


def test_figures_are_legible_and_complete(table):
    devices = table.assign(device="one")
    drawn = [figure_schedules.gantt(), figure_schedules.gantt_unequal()]
    drawn += [figure_schedules.speeds(table), figure_schedules.devices(devices)]
    for figure in drawn:
        assert figure.get_figwidth() == 6.9
        texts = [t for t in figure.findobj(Text) if t.get_text()]
        assert min(t.get_fontsize() for t in texts) >= 7
    titles = {axis.get_title(loc="left") for axis in drawn[0].axes}
    assert titles == {figure_schedules.NAMES[n] for n in SCHEDULES if n != "layerpipe"}
    assert [axis.get_title() for axis in drawn[2].axes[:2]] == ["MLP 8 × 1024", "AlexNet"]


def test_gantt_of_unequal_layers_shows_halves():
    titles = [axis.get_title(loc="left") for axis in figure_schedules.gantt_unequal().axes]
    assert titles == [
        "PipeDream: a batch every 24",
        "LayerPipe2: a batch every 24",
        "LayerPipe (our reading): a batch every 17",
    ]
    legend = [t.get_text() for t in figure_schedules.gantt_unequal().legends[0].get_texts()]
    assert legend == ["forward", "activation gradient", "half of it", "weight gradient", "whole backward pass"]


def test_sentence_and_table_take_their_numbers_from_the_cases(table):
    fine = table[(table["schedule"] == "layerpipe") & (table["processors"] == 9)]
    sentence = claims_costs.layerpipe_in_our_model(table)
    assert f"{100 * (fine['speed'].mean() - 1):+.0f} % faster" in sentence
    assert "n=2)" in sentence
    assert "+25 % on average and up to +80 %" in sentence
    wide = tables_costs.speed_over_pipedream(table)
    assert list(wide.columns) == ["network", "schedule", "3", "4", "9"]
    assert set(wide["schedule"]) == set(SCHEDULES) - {"pipedream"}
    assert (wide.loc[wide["schedule"] == "interleaved", "9"] == "–").all()


def test_devices_of_the_sensitivity_figure():
    assert tables_costs.DEVICES["128 × 128, output st."] is DEVICE
    assert len(set(tables_costs.DEVICES)) == 6
