"""The table of schedules."""

import math

import pandas as pd
import pytest

from layerpipe2.lab.reference import REFERENCE
from layerpipe2.planning import FlopDevice
from layerpipe2.planning.schedules import SCHEDULES
from layerpipe2.planning.schedules.compare import compare


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(compare({name: REFERENCE[name].costs() for name in ("mlp", "alexnet")}, (3, 4, 9)))


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
    rows = compare({"mlp": REFERENCE["mlp"].costs()}, (5,), ("pipedream", "layerpipe2"), FlopDevice(1e12))
    assert rows[0]["period"] == pytest.approx(rows[1]["period"])
    assert rows[0]["megabytes"] == rows[1]["megabytes"]
