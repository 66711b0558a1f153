"""Modelled costs, simulated schedules and the measured map: what is said follows from them, and verdicts can fail."""

import pandas as pd
import pytest

from experiments import theory as study
from layerpipe2.lab.reference import REFERENCE
from layerpipe2.planning.schedules.compare import compare
from paper_figures.grouping import costs, schedules
from paper_figures.grouping.costs import one_stage_or_two, trade_off
from paper_figures.pipelines.regimes import load
from paper_figures.spiking import spikepipe
from paper_figures.verdicts import Answer
from tests import synthetic_records
from tests.paper_figures.made_map import TIMES, write

PARTITIONS = pd.DataFrame(study.partitions(("mlp", "vgg")))


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(costs, "LEAST", 1)


def changed(folder, **rounds):
    """The map with other ms of the pipeline: ``even_far=(...)`` over the slow link, ``even=(...)`` on one host."""
    times = dict(TIMES)
    for name, ms in rounds.items():
        network, _, far = name.partition("_")
        times[network, 0.1 if far else None, "async/stash"] = (1, ms)
    return load(write(folder, times))


@pytest.mark.parametrize(
    ("rounds", "answer", "counts"),
    [
        ({}, Answer.YES, "faster in 3 of 3 cases; above, one stage in 1 of 1"),
        ({"even_far": (20, 20, 20)}, Answer.NO, "faster in 3 of 3 cases; above, one stage in 0 of 1"),
        ({"even_far": (100, 20, 100)}, Answer.UNDECIDED, "faster in 3 of 3 cases; above, one stage in 0 of 0"),
        ({"even": (40, 40, 40)}, Answer.UNDECIDED, "faster in 2 of 3 cases; above, one stage in 1 of 1"),
        ({"even": (40, 40, 40), "mlp": (40, 40, 40)}, Answer.NO, "faster in 1 of 3 cases; above, one stage in 1 of 1"),
    ],
)
def test_the_ratio_of_communication_to_computation_says_whether_one_stage_or_two(rounds, answer, counts, tmp_path):
    found, _, sentence = one_stage_or_two(changed(tmp_path, **rounds))
    assert found == answer
    assert counts in sentence


def test_the_verdict_says_what_it_follows_from(tmp_path):
    without = trade_off(PARTITIONS, None)
    assert without.word_and_caveat == "reproduced (in our cost model)"
    assert without.evidence[-1] == "Modelled, not measured on hardware."
    assert "measured" not in without.test
    found = trade_off(PARTITIONS, changed(tmp_path))
    assert found.word_and_caveat == "reproduced (measured for two stages, else modelled)"
    assert "at least 90 % of the cases below 1" in found.test
    assert found.evidence[1].startswith("In the cost model, for all group sizes: MLP")
    refuted = trade_off(PARTITIONS, changed(tmp_path, even_far=(20, 20, 20)))
    assert refuted.answer == Answer.NO
    open_ = trade_off(PARTITIONS, changed(tmp_path, even_far=(100, 20, 100)))
    assert open_.word == "inconclusive (n=3)"
    assert trade_off(PARTITIONS.assign(communication=0), changed(tmp_path)).answer == Answer.NO


def test_few_cases_quick_runs_and_one_host_decide_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "LEAST", 4)
    assert trade_off(PARTITIONS, changed(tmp_path)).word == "inconclusive (n=4)"
    near = {name: times for name, times in TIMES.items() if name[1] is None}
    for folder in (write(tmp_path / "quick", quick=True), write(tmp_path / "near", near)):
        assert trade_off(PARTITIONS, load(folder)).word_and_caveat == "reproduced (in our cost model)"


def test_every_group_size_is_there():
    table = PARTITIONS
    assert table.groupby("network")["group_size"].agg(list).to_dict() == {n: list(range(1, 10)) for n in ("mlp", "vgg")}
    assert (table["history_ema"] <= table["history_stash"]).all()
    assert (table["history_ema"] <= table["parameters"]).all()
    whole = table[table["stages"] == 1]
    assert (whole["share"] == 1).all()
    assert (whole[list(study.LINKS)] == 1).all(axis=None)
    speeds = table[list(study.LINKS)].to_numpy()
    assert (speeds[:, :-1] >= speeds[:, 1:]).all()  # faster links are never slower


def test_front_by_hand():
    points = [{"communication": sent, "computation": done} for sent, done in ((0, 9), (1, 5), (1, 6), (2, 5), (1, 5))]
    assert [study.efficient(point, points) for point in points] == [True, True, False, False, True]


def test_verdicts_can_fail():
    table = PARTITIONS
    assert costs.history_is_a_cost(table)[0] == costs.grouping_trades(table)[0] == Answer.YES
    free = table.assign(history_stash=0.0)
    assert costs.history_is_a_cost(free)[0] == Answer.NO
    silent = table.assign(communication=0)
    assert costs.grouping_trades(silent)[0] == Answer.NO
    one_best = table.assign(efficient=table["group_size"] == 1)
    assert costs.grouping_trades(one_best)[0] == Answer.NO
    for verdict in (costs.history_is_a_cost, costs.grouping_trades):
        assert verdict(table.head(0))[0] == Answer.UNDECIDED


@pytest.fixture(scope="module")
def simulated():
    return pd.DataFrame(compare({name: REFERENCE[name].costs() for name in ("mlp", "alexnet")}, (3, 4, 9)))


def test_whether_the_model_is_above_the_abstract_is_computed(simulated):
    assert "the average is above the abstract's" in schedules.layerpipe(simulated)[0]
    slow = simulated.assign(speed=simulated["speed"].clip(upper=1.1))
    assert "the average is not above the abstract's, and the largest gain is not" in schedules.layerpipe(slow)[0]


def test_sentences_take_their_numbers_from_the_table_and_can_turn():
    table = synthetic_records.theory_tables().spikepipe
    declared = table[(table["array"] == 128) & (table["placement"] == "free") & (table["steps"] == 8)]
    said = spikepipe.spikepipe_in_our_model(table)
    mean = declared["speed"].mean()
    assert f"{mean:.2f} times on average (from {declared['speed'].min():.2f} to" in said[0]
    assert ("the average is above the abstract's over all" in said[0]) == (mean > 1.6)
    slow = table.assign(speed=table["speed"].clip(upper=1.1))
    assert "the average is not above the abstract's over all" in spikepipe.spikepipe_in_our_model(slow)[0]
    quick = table.assign(speed=3.0)
    assert "and above it with at most 8" in spikepipe.spikepipe_in_our_model(quick)[0]
