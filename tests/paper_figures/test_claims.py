"""Verdicts against cases made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
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
from paper_figures.verdicts import Verdict
from tests import synthetic_records
from tests.lab.judging import test_share_rule as share_rule
from tests.synthetic_records import STASH, Accuracies, made_records, made_runs

_THEORY = synthetic_records.theory_tables()
_GOOD: list[float | None] = [0.969, 0.973, 0.967, 0.972]
_BAD: list[float | None] = [0.90, 0.91, 0.90, 0.90]


def all_claims(records: Records, theory: Theory = _THEORY, **made: Assay) -> list[Verdict]:
    return report.verdicts(report.data(known(records, theory, ComparisonSettings()) | made))


def c6(records: Records, settings: ComparisonSettings | None = None) -> Verdict:
    settings = settings or ComparisonSettings()
    return accuracy.reconstruction_keeps_accuracy(assay(records, settings), settings)


def cell(network: str = "mlp", size: int = 1, **columns: list[float | None]) -> pd.DataFrame:
    """Runs with accuracies by strategy (with _ for -), at 10 - ``size`` stages, where losing something is possible."""
    named = {name.replace("_", "-"): accuracies for name, accuracies in columns.items()}
    runs = made_runs({"stash": list(STASH), "latest": list(_BAD)} | named, network=network)
    return runs.assign(group_size=size, num_stages=10 - size)


_ONLY_ALONE = made_runs({"sequential": [0.97, 0.97, 0.97, 0.97]}).assign(group_size=9, num_stages=1)
_FLAT: Accuracies = {"stash": [0.21, 0.22, 0.21, 0.22], "latest": [0.1] * 4, "ema_span": [0.21, 0.22, 0.21, 0.22]}
_SCATTERED, _OPEN, _LESS = [0.90, 0.99, 0.91, 0.97], [0.93, 0.94, 0.95, 0.94], [0.955, 0.957, 0.953, 0.956]
_MANY = [cell(size=size, ema_span=_GOOD) for size in range(1, 8)]
_NEEDLESS = "no history is needed: the latest weights are shown to lose less than the margin"
_HARDLY = "hardly trained: exact stashing gains less than half of what sequential training does"


@pytest.mark.parametrize(
    ("verdict", "cells"),
    [
        ("reproduced", [cell(ema_span=_GOOD, ema_window=_BAD)]),
        ("not reproduced", [cell(ema_span=_BAD, ema_window=_BAD)]),
        ("inconclusive (n=4)", [cell(ema_span=_BAD, ema_window=[0.94, 0.99, 0.95, 0.98])]),
        ("inconclusive (n=4)", [cell(**{"ema_0.9": _GOOD})]),  # a fixed decay is not the paper's method
        ("inconclusive (n=4)", [cell(ema_span=_GOOD[:1])]),
        ("not reproduced", [cell(ema_span=[0.97, None, 0.968, 0.97])]),
        ("reproduced", [cell(ema_span=[0.999, 0.9995, 0.998, 0.9992])]),  # more is no loss
        ("not reproduced", [cell(ema_span=_BAD, pair=_GOOD)]),  # the pair is no candidate
        ("reproduced", [cell(latest=[None] * 4, ema_span=_GOOD)]),
        (_NEEDLESS, [cell(latest=_GOOD, ema_span=_GOOD)]),
        (_NEEDLESS, [cell(latest=_LESS, ema_span=_BAD)]),  # worse, though by less than the margin
        ("can't tell: the control is not shown to fail", [cell(latest=_SCATTERED, ema_span=_BAD)]),
        ("inconclusive (n=4)", [cell(ema_span=_GOOD, ema_window=_BAD), cell("vgg", ema_window=_BAD)]),  # not everywhere
        ("reproduced", _MANY),
        ("inconclusive (n=4)", [*_MANY, cell(size=8, ema_span=_OPEN)]),  # no loss is averaged away
        ("not reproduced", [*_MANY, cell(size=8, ema_span=_BAD)]),
        (_HARDLY, [_ONLY_ALONE, cell(**_FLAT)]),
        ("reproduced", [cell(**_FLAT)]),  # nothing is known of sequential training
    ],
)
def test_verdict_on_accuracy(verdict: str, cells: list[pd.DataFrame]) -> None:
    assert c6(made_records(*cells)).word == verdict


def test_the_verdict_says_what_a_control_costs_and_which_cells_do_not_count() -> None:
    line = c6(made_records(cell(latest=[None] * 4, ema_span=_GOOD))).evidence[0]
    assert "doing without a history 87.03 points" in line
    assert "the latest weights diverged in 4 of 4 runs" in line
    other = cell("vgg", latest=_GOOD, ema_span=_BAD)
    claim = c6(made_records(cell(**{"ema_span": _GOOD, "ema_0.9": _GOOD}), other))
    assert claim.word_and_caveat == (
        "reproduced (in 1 of 2 cells; in 1 no history is needed; EMA 0.9, blind to the delay, as well)"
    )


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
    once = assay(records, ComparisonSettings())
    assert structure.formal_derivation(_THEORY).word == "reproduced"
    for claim, keys in (
        ("minimality", {"C4"}),
        ("groups", {"C3"}),
        ("history", {"C5"}),
        ("delay law", {"C1", "C2", "C3"}),
    ):
        proofs = _THEORY.proofs.assign(holds=_THEORY.proofs["holds"] & (_THEORY.proofs["claim"] != claim))
        found = all_claims(records, replace(_THEORY, proofs=proofs), judged=once)
        assert {c.key for c in found if c.word == "not reproduced"} >= keys, claim
        assert {c.key for c in found if c.key in ("C1", "C2", "C3", "C4", "C5") and c.word == "reproduced"} == (
            {"C1", "C2", "C3", "C4", "C5"} - keys
        )
    none = replace(_THEORY, proofs=_THEORY.proofs.head(0))
    assert structure.formal_derivation(none).word == "inconclusive (n=0)"
    found = {claim.key: claim.word for claim in all_claims(records, none, judged=once)}
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
    return list(answers(Assay.of(share_rule.runs(**points), share_rule.SETTINGS), ())["answer"])


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
