"""SpikePipe's schedule against standard pipelining."""

import pandas as pd
import pytest

from layerpipe2.planning import SystolicArray
from layerpipe2.planning.spikepipe import Setting, compare, spiking
from layerpipe2.planning.spikepipe.compare import fine, standard
from layerpipe2.planning.spikepipe.networks import dense

FREE_LINKS = Setting(SystolicArray(32, 32))


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(compare(("mlp", "vgg"), (2, 8)))


def test_every_case_is_there_and_is_a_share(table):
    assert len(table) == 2 * 2 * 6
    assert (table.loc[table["placement"] == "standard", "speed"] == 1).all()
    assert table["utilisation"].between(0, 1).all()
    assert table["communication"].between(0, 1, inclusive="neither").all()
    assert not table.isna().any(axis=None)


def test_the_period_is_what_the_processors_work_at(table):
    assert (table["work"] / table["processors"] / table["utilisation"]).to_numpy() == pytest.approx(table["period"])
    assert (table["period"] * table["processors"] >= table["work"]).all()


def test_the_share_of_the_links_is_that_of_all_busy_time(table):
    links = table["megabytes"] * 1e6 / 64e9
    assert (links / (links + table["work"])).to_numpy() == pytest.approx(table["communication"])


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_whole_sequences_on_the_standard_groups_are_standard_pipelining(name):
    for processors in (2, 5):
        base, found = (
            standard(spiking(name), processors, FREE_LINKS),
            fine(spiking(name), processors, FREE_LINKS, "fixed", FREE_LINKS.time_steps),
        )
        assert found["period"] == pytest.approx(base["period"], rel=0.01)
        assert found["megabytes"] == pytest.approx(base["megabytes"])


def test_one_processor_gains_nothing_and_sends_nothing():
    units = (dense(8, 8),) * 3
    for found in (standard(units, 1, FREE_LINKS), *(fine(units, 1, FREE_LINKS, p, 8) for p in ("fixed", "free"))):
        assert found["period"] == pytest.approx(found["work"])
        assert found["megabytes"] == 0
