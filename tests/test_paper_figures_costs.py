"""The table of partitions: front, figures and verdicts, which must be able to fail."""

import pandas as pd
import pytest
from matplotlib.text import Text

from paper_figures import claims_costs, figure_costs, tables_costs
from paper_figures.claims import NOT_REPRODUCED, REPRODUCED


@pytest.fixture(scope="module")
def table():
    return tables_costs.partitions(("mlp", "vgg"))


def test_every_group_size_is_there(table):
    assert table.groupby("network")["group_size"].agg(list).to_dict() == {n: list(range(1, 10)) for n in ("mlp", "vgg")}
    assert (table["history_ema"] <= table["history_stash"]).all()
    assert (table["history_ema"] <= table["parameters"]).all()
    whole = table[table["stages"] == 1]
    assert (whole["share"] == 1).all()
    assert (whole[list(tables_costs.LINKS)] == 1).all(axis=None)


def test_faster_links_are_never_slower(table):
    speeds = table[list(tables_costs.LINKS)].to_numpy()
    assert (speeds[:, :-1] >= speeds[:, 1:]).all()


def test_front_by_hand():
    points = pd.DataFrame(
        {"network": ["a"] * 4 + ["b"], "communication": [0, 1, 1, 2, 9], "computation": [9, 5, 6, 5, 9]}
    )
    assert tables_costs.efficient(points) == [True, True, False, False, True]


def test_verdicts_of_the_model(table):
    word, sentence = claims_costs.history_is_a_cost(table)
    mlp = table[(table["network"] == "mlp") & (table["group_size"] == 1)].iloc[0]
    assert word == REPRODUCED
    assert f"MLP {mlp['history_stash'] / mlp['parameters']:.1f} times its parameters" in sentence
    word, sentence = claims_costs.grouping_trades(table)
    assert word == REPRODUCED
    assert "5 of 9 group sizes on the front" in sentence


def test_verdicts_can_fail(table):
    free = table.assign(history_stash=0.0)
    assert claims_costs.history_is_a_cost(free)[0] == NOT_REPRODUCED
    silent = table.assign(communication=0)
    assert claims_costs.grouping_trades(silent)[0] == NOT_REPRODUCED
    one_best = table.assign(efficient=table["group_size"] == 1)
    assert claims_costs.grouping_trades(one_best)[0] == NOT_REPRODUCED
    for verdict in (claims_costs.history_is_a_cost, claims_costs.grouping_trades):
        assert verdict(table.head(0))[0] == "inconclusive (n=0)"


def test_figures_are_legible_and_show_every_network(table):
    for draw in (figure_costs.tradeoff, figure_costs.memory):
        figure = draw(table)
        assert figure.get_figwidth() == 6.9
        assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 7
        assert [axis.get_title() for axis in figure.axes[:2]] == ["MLP", "VGG"]


def test_rows_of_one_partition():
    rows = tables_costs.stages("mlp", 3)
    assert list(rows["delay"]) == [4, 2, 0]
    assert (rows["history_bytes"] == rows["delay"] * rows["parameter_bytes"]).all()
