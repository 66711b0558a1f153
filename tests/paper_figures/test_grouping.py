"""C7 on a measured map: what confirms it, what refutes it, what decides nothing, and what is said without a map."""

import pandas as pd
import pytest

from experiments import theory as study
from paper_figures.claims.costs import trade_off
from paper_figures.claims.pipelines import grouping
from paper_figures.claims.pipelines.grouping import one_stage_or_two
from paper_figures.records.regimes import load
from paper_figures.verdicts import Answer
from tests.paper_figures.made_map import TIMES, write

PARTITIONS = pd.DataFrame(study.partitions(("mlp",)))


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(grouping, "LEAST", 1)


def changed(folder, **rounds):
    """The map with other ms of the pipeline: ``even_far=(...)`` over the slow link, ``even=(...)`` on one host."""
    times = dict(TIMES)
    for name, ms in rounds.items():
        network, _, far = name.partition("_")
        times[network, 0.1 if far else None, "async/stash"] = (1, ms)
    return load(write(folder, times))


# One process takes 20 and 30 ms; the link carries 60 kB and 1 MB, at 12 MB/s in 5 and 83 ms: one case of four above 1.
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


def test_the_sentence_names_ratios_and_the_other_way_to_share_the_work(tmp_path):
    _, n, sentence = one_stage_or_two(changed(tmp_path))
    assert n == 4
    assert "needs 0.00075 to 2.8 times as long" in sentence
    # Of 30 MB against 60 kB both; of 0.12 against 1 MB only the one over the slow link is slower than data parallel.
    assert "faster in 2 of 2 decided cases with more bytes of weights than of activations" in sentence
    assert "slower in 1 of 2 with fewer" in sentence


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
    monkeypatch.setattr(grouping, "LEAST", 4)
    assert trade_off(PARTITIONS, changed(tmp_path)).word == "inconclusive (n=4)"
    near = {name: times for name, times in TIMES.items() if name[1] is None}
    for folder in (write(tmp_path / "quick", quick=True), write(tmp_path / "near", near)):
        assert trade_off(PARTITIONS, load(folder)).word_and_caveat == "reproduced (in our cost model)"
