"""The tables of modelled costs and of simulated schedules: what is drawn and said from them; verdicts can fail."""

import pandas as pd
import pytest

from experiments import theory as study
from layerpipe2.lab.reference import REFERENCE
from layerpipe2.planning.schedules import SCHEDULES
from layerpipe2.planning.schedules.compare import compare
from paper_figures.claims import costs as claims
from paper_figures.records.theory import Theory
from paper_figures.tables import theory as tables
from paper_figures.verdicts import Answer


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(study.partitions(("mlp", "vgg")))


def test_every_group_size_is_there(table):
    assert table.groupby("network")["group_size"].agg(list).to_dict() == {n: list(range(1, 10)) for n in ("mlp", "vgg")}
    assert (table["history_ema"] <= table["history_stash"]).all()
    assert (table["history_ema"] <= table["parameters"]).all()
    whole = table[table["stages"] == 1]
    assert (whole["share"] == 1).all()
    assert (whole[list(study.LINKS)] == 1).all(axis=None)


def test_faster_links_are_never_slower(table):
    speeds = table[list(study.LINKS)].to_numpy()
    assert (speeds[:, :-1] >= speeds[:, 1:]).all()


def test_front_by_hand():
    points = [{"communication": sent, "computation": done} for sent, done in ((0, 9), (1, 5), (1, 6), (2, 5), (1, 5))]
    assert [study.efficient(point, points) for point in points] == [True, True, False, False, True]


def test_verdicts_of_the_model(table):
    answer, sentence = claims.history_is_a_cost(table)
    mlp = table[(table["network"] == "mlp") & (table["group_size"] == 1)].iloc[0]
    assert answer == Answer.YES
    assert f"MLP {mlp['history_stash'] / mlp['parameters']:.1f} times its parameters" in sentence
    answer, sentence = claims.grouping_trades(table)
    assert answer == Answer.YES
    assert "5 of 9 group sizes on the front" in sentence


def test_verdicts_can_fail(table):
    free = table.assign(history_stash=0.0)
    assert claims.history_is_a_cost(free)[0] == Answer.NO
    silent = table.assign(communication=0)
    assert claims.grouping_trades(silent)[0] == Answer.NO
    one_best = table.assign(efficient=table["group_size"] == 1)
    assert claims.grouping_trades(one_best)[0] == Answer.NO
    for verdict in (claims.history_is_a_cost, claims.grouping_trades):
        assert verdict(table.head(0))[0] == Answer.UNDECIDED


@pytest.fixture(scope="module")
def simulated():
    return pd.DataFrame(compare({name: REFERENCE[name].costs() for name in ("mlp", "alexnet")}, (3, 4, 9)))


def test_sentence_and_table_take_their_numbers_from_the_cases(simulated):
    fine = simulated[(simulated["schedule"] == "layerpipe") & (simulated["processors"] == 9)]
    sentence = claims.layerpipe_in_our_model(simulated)[0]
    assert f"9 processors: {100 * (fine['speed'].mean() - 1):+.0f} % on average" in sentence
    assert "n=2)" in sentence
    assert "+25 % on average, up to +80 %" in sentence
    none = simulated.head(0)
    wide = tables.speeds(Theory(none, none, none, simulated, none, none))
    assert list(wide.columns) == ["network", "schedule", "P=3", "P=4", "P=9"]
    assert set(wide["schedule"]) == {SCHEDULES[name].label for name in SCHEDULES if name != "pipedream"}
    assert (wide.loc[wide["schedule"] == "interleaved 1F1B", "P=9"] == "–").all()


def test_whether_the_model_is_above_the_abstract_is_computed(simulated):
    assert "the average is above the abstract's" in claims.layerpipe_in_our_model(simulated)[0]
    slow = simulated.assign(speed=simulated["speed"].clip(upper=1.1))
    assert (
        "the average is not above the abstract's, and the largest gain is not" in claims.layerpipe_in_our_model(slow)[0]
    )
