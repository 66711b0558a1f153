"""The table of partitions: front, figures and verdicts, which must be able to fail."""

import pandas as pd
import pytest

from experiments import costs as study
from paper_figures.claims import costs as claims_costs
from paper_figures.figures import costs as figure_costs
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
    answer, sentence = claims_costs.history_is_a_cost(table)
    mlp = table[(table["network"] == "mlp") & (table["group_size"] == 1)].iloc[0]
    assert answer == Answer.YES
    assert f"MLP {mlp['history_stash'] / mlp['parameters']:.1f} times its parameters" in sentence
    answer, sentence = claims_costs.grouping_trades(table)
    assert answer == Answer.YES
    assert "5 of 9 group sizes on the front" in sentence


def test_verdicts_can_fail(table):
    free = table.assign(history_stash=0.0)
    assert claims_costs.history_is_a_cost(free)[0] == Answer.NO
    silent = table.assign(communication=0)
    assert claims_costs.grouping_trades(silent)[0] == Answer.NO
    one_best = table.assign(efficient=table["group_size"] == 1)
    assert claims_costs.grouping_trades(one_best)[0] == Answer.NO
    for verdict in (claims_costs.history_is_a_cost, claims_costs.grouping_trades):
        assert verdict(table.head(0))[0] == Answer.UNDECIDED


def test_figures_show_every_network(table):
    for draw in (figure_costs.tradeoff, figure_costs.memory):
        figure = draw(table)
        assert [axis.get_title() for axis in figure.axes[:2]] == ["MLP", "VGG"]
