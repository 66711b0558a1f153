"""Verdicts against cases made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures.accuracy import claims as accuracy
from paper_figures.accuracy.answers import answers
from paper_figures.accuracy.assay import Assay
from paper_figures.derivation import claims as structure
from paper_figures.page import report
from paper_figures.records import Records
from paper_figures.report import judged as assay
from paper_figures.report import known
from paper_figures.theory import Theory
from paper_figures.verdicts import Answer, Verdict
from tests import synthetic_records
from tests.lab.judging import test_share_rule as share_rule
from tests.synthetic_records import STASH, Accuracies, made_records, made_runs

_THEORY = synthetic_records.theory_tables()
_GOOD, _BAD = [0.969, 0.973, 0.967, 0.972], [0.90, 0.91, 0.90, 0.90]


def judged(columns: Accuracies, **settings: Any) -> Verdict:
    """C6 on one cell."""
    return c6(made_records(made_runs({"stash": list(STASH)} | columns)), ComparisonSettings(**settings))


def all_claims(records: Records, theory: Theory = _THEORY) -> list[Verdict]:
    return report.verdicts(report.data(known(records, theory, ComparisonSettings())))


def c6(records: Records, settings: ComparisonSettings | None = None) -> Verdict:
    settings = settings or ComparisonSettings()
    return accuracy.reconstruction_keeps_accuracy(assay(records, settings), settings)


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        ({"ema-span": _GOOD, "ema-window": _BAD}, "reproduced"),
        ({"ema-span": _BAD, "ema-window": _BAD}, "not reproduced"),
        ({"ema-span": _BAD, "ema-window": [0.94, 0.99, 0.95, 0.98]}, "inconclusive (n=4)"),
        ({"ema-0.9": _GOOD}, "inconclusive (n=4)"),  # a fixed decay is not the paper's method
        ({"ema-span": _GOOD[:1]}, "inconclusive (n=4)"),
        ({"ema-span": [0.97, None, 0.968, 0.97]}, "not reproduced"),
        ({"ema-span": [0.999, 0.9995, 0.998, 0.9992]}, "reproduced"),  # more is no loss
    ],
)
def test_verdict_on_accuracy_where_the_control_fails(rules: Accuracies, verdict: str) -> None:
    assert judged({"latest": list(_BAD), **rules}).word == verdict


@pytest.mark.parametrize(
    ("latest", "reason"),
    [
        (_GOOD, "no history is needed: the latest weights are shown to lose less than the margin"),
        (
            [0.955, 0.957, 0.953, 0.956],  # worse, though by less than the margin
            "no history is needed: the latest weights are shown to lose less than the margin",
        ),
        ([0.90, 0.99, 0.91, 0.97], "can't tell: the control is not shown to fail"),  # too scattered
    ],
)
@pytest.mark.parametrize("rule", [_GOOD, _BAD])
def test_nothing_is_decided_where_the_control_passes(
    latest: list[float | None], reason: str, rule: list[float | None]
) -> None:
    claim = judged({"latest": list(latest), "ema-span": list(rule)})
    assert claim.word == reason
    assert claim.answer == Answer.UNDECIDED
    assert any(reason in line for line in claim.evidence)


def test_a_control_that_diverges_is_a_cost_and_no_gap() -> None:
    claim = judged({"latest": [None, None, None, None], "ema-span": list(_GOOD)})
    assert claim.word == "reproduced"
    assert "doing without a history 87.03 points" in claim.evidence[0]
    assert "the latest weights diverged in 4 of 4 runs" in claim.evidence[0]


def test_a_rule_that_has_not_run_in_a_cell_has_not_passed_there() -> None:
    columns: Accuracies = {"stash": list(STASH), "latest": list(_BAD), "ema-window": list(_BAD)}
    with_it, without = made_runs(columns | {"ema-span": list(_GOOD)}), made_runs(columns, network="vgg")
    assert c6(made_records(with_it)).word == "reproduced"
    assert c6(made_records(with_it, without)).word == "inconclusive (n=4)"


def test_a_loss_in_one_cell_is_not_averaged_away() -> None:
    columns: Accuracies = {"stash": list(STASH), "latest": list(_BAD), "ema-span": list(_GOOD)}
    many = [made_runs(columns).assign(group_size=g, num_stages=10 - g) for g in range(1, 8)]
    assert c6(made_records(*many)).word == "reproduced"
    for rule, verdict in (([0.93, 0.94, 0.95, 0.94], "inconclusive (n=4)"), (list(_BAD), "not reproduced")):
        deep = made_runs(columns | {"ema-span": rule}).assign(group_size=8, num_stages=2)
        assert c6(made_records(*many, deep)).word == verdict


def test_cells_that_can_not_tell_do_not_count_and_the_verdict_says_so() -> None:
    told = made_runs({"stash": list(STASH), "latest": list(_BAD), "ema-span": list(_GOOD), "ema-0.9": list(_GOOD)})
    other = made_runs({"stash": list(STASH), "latest": list(_GOOD), "ema-span": list(_BAD)}, network="vgg")
    claim = c6(made_records(told, other))
    assert claim.word == "reproduced"
    assert claim.caveat == "in 1 of 2 cells; in 1 no history is needed; EMA 0.9, blind to the delay, as well"


def test_kinds_of_networks_need_each_other() -> None:
    columns: Accuracies = {"stash": list(STASH), "latest": list(_BAD), "ema-span": list(_GOOD)}
    mlp, conv, spiking = (made_runs(columns, network=name) for name in ("mlp", "vgg", "spiking-mlp"))
    lost = made_runs(columns | {"ema-span": list(_BAD)}, network="vgg")
    blind = made_runs(columns | {"latest": list(_GOOD)}, network="vgg")
    for runs, verdict in (
        ((mlp,), "convolutional: inconclusive (n=0); fully connected: reproduced; spiking: inconclusive (n=0)"),
        ((mlp, conv, spiking), "reproduced"),
        ((mlp, lost, spiking), "not reproduced"),
        (
            (mlp, blind, spiking),
            "convolutional: no history is needed: the latest weights are shown to lose less than the margin; "
            "fully connected: reproduced; spiking: reproduced",
        ),
    ):
        found = assay(made_records(*runs), ComparisonSettings())
        assert accuracy.kinds_of_networks(found).word == verdict


def test_structure_claims_hold_on_lawful_records_and_fail_on_others() -> None:
    tables = synthetic_records.make(seeds=1)
    judge = (structure.structure_alone, structure.downstream_stages, structure.shared_delay, structure.memory_cost)
    assert [claim(Records(**tables), _THEORY).word for claim in judge] == ["reproduced"] * 4
    stages = tables["stages"].assign(delay=tables["stages"]["delay"] + (tables["stages"]["stage"] == 0))
    broken = Records(**(tables | {"stages": stages}))
    assert [claim(broken, _THEORY).word for claim in judge] == ["not reproduced"] * 4
    sequential = tables["runs"]["num_stages"] == 1
    alone = tables["stages"].groupby(["network", "group_size"]).filter(lambda rows: len(rows) == 1)
    none = Records(**(tables | {"stages": alone, "runs": tables["runs"][sequential]}))
    assert [claim(none, _THEORY).word for claim in judge] == ["inconclusive (n=0)"] * 4


def test_equal_to_a_stash_that_does_not_train_is_no_evidence() -> None:
    baseline = made_runs({"sequential": [0.97, 0.97, 0.97, 0.97]}).assign(group_size=9, num_stages=1)
    flat = made_runs({"stash": [0.21, 0.22, 0.21, 0.22], "latest": [0.1] * 4, "ema-span": [0.21, 0.22, 0.21, 0.22]})
    claim = c6(made_records(baseline, flat))
    assert claim.word == "hardly trained: exact stashing gains less than half of what sequential training does"
    assert "hardly trained: exact stashing gains less than half of what sequential training does" in claim.evidence[0]
    assert c6(made_records(flat)).word == "reproduced"  # nothing is known of sequential training


def test_the_pair_is_no_candidate_for_the_papers_reconstruction() -> None:
    claim = judged({"latest": list(_BAD), "ema-span": list(_BAD), "pair": list(_GOOD)})
    assert claim.word == "not reproduced"
    assert any("pair: +0.00" in line and "(this project's own: no candidate)" in line for line in claim.evidence)
    with_it = judged({"latest": list(_BAD), "ema-span": list(_GOOD), "pair": list(_GOOD)})
    assert with_it.word == "reproduced"


def test_the_answer_in_short() -> None:
    columns: Accuracies = {
        "stash": list(STASH),
        "latest": list(_BAD),
        "ema-span": list(_GOOD),
        "ema-window": list(_BAD),
    }
    for changes, start, words in (
        ({}, "**Yes**, in 1 of 1 cell, where the latest weights cost 6.8 points", "EMA window is shown to lose more"),
        ({"ema-span": list(_BAD)}, "**No**, in 1 of 1 cell", "EMA window and EMA span are shown to lose more"),
        ({"latest": list(_GOOD)}, "**These runs can't tell**", "is not shown to lose more than 2 points"),
        ({"ema-span": [], "ema-window": []}, "**Not decided**", ""),
    ):
        found = assay(
            made_records(made_runs({k: v for k, v in (columns | changes).items() if v})), ComparisonSettings()
        )
        text = accuracy.in_short(found, ComparisonSettings())
        assert text.startswith(start)
        assert words in text


def test_claims_on_the_derivation_follow_the_proofs() -> None:
    records = synthetic_records.records(seeds=1)
    assert structure.formal_derivation(_THEORY).word == "reproduced"
    for claim, keys in (
        ("minimality", {"C4"}),
        ("groups", {"C3"}),
        ("history", {"C5"}),
        ("delay law", {"C1", "C2", "C3"}),
    ):
        proofs = _THEORY.proofs.assign(holds=_THEORY.proofs["holds"] & (_THEORY.proofs["claim"] != claim))
        found = all_claims(records, replace(_THEORY, proofs=proofs))
        assert {c.key for c in found if c.word == "not reproduced"} >= keys, claim
        assert {c.key for c in found if c.key in ("C1", "C2", "C3", "C4", "C5") and c.word == "reproduced"} == (
            {"C1", "C2", "C3", "C4", "C5"} - keys
        )
    none = replace(_THEORY, proofs=_THEORY.proofs.head(0))
    assert structure.formal_derivation(none).word == "inconclusive (n=0)"
    found = {claim.key: claim.word for claim in all_claims(records, none)}
    assert found["C1"] == "inconclusive (n=0)"
    assert found["C6"].startswith("inconclusive")  # one seed is never a verdict on accuracy
    assert found["C8"].count("inconclusive (n=0)") == 3


def test_recorded_delays_that_are_not_the_derived_ones_are_found() -> None:
    records = synthetic_records.records(seeds=1)
    same, known = structure.against_derivation(records.stages, _THEORY, "layerpipe2")
    assert same == known > 0
    off = records.stages.assign(delay=records.stages["delay"] + 1)
    assert structure.against_derivation(off, _THEORY, "layerpipe2") == (0, known)


def told(**points: np.ndarray) -> list[str]:
    """The three answers of the default study on a cell of per cent by seed."""
    return list(answers(Assay.of(share_rule.runs(**points), share_rule.SETTINGS))["answer"])


def test_the_answers_name_what_is_lost_and_who_stands_in() -> None:
    stash, latest, seeds = share_rule.STASH, share_rule.LATEST, np.arange(share_rule.SEEDS)
    matter, stand_in, delay = told(ema_lsq=share_rule.won_back(1.0), pair=share_rule.won_back(0.5))
    assert matter == f"Yes: the latest weights lose against stored ones for MLP ({np.mean(stash - latest):.1f} points)."
    assert "EMA lsq, which follows the delay: yes for MLP (100 %)." in stand_in
    assert "pair: no for MLP (50 %)." in stand_in
    assert delay.endswith(f"in points of accuracy: MLP {np.mean(62 - stash):.1f}.")
    assert "and 6 of 10 runs diverged" in told(latest=np.where(seeds < 6, np.nan, latest))[0]
    matter, stand_in, _ = told(latest=stash - 0.1 * (62 - stash), ema_lsq=share_rule.won_back(1.0))
    assert matter == "Hardly for MLP (less than 2.0 points)."
    assert stand_in == "These runs can't tell: nothing is lost without old weights."
    noisy = stash - 2 + np.random.default_rng(0).normal(0, 3, share_rule.SEEDS)
    assert told(latest=noisy)[0] == "These runs can't tell for MLP."
