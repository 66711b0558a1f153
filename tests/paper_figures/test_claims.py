"""Verdicts against cases made by hand."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from paper_figures.claims import families, structure, training
from paper_figures.comparisons import Settings, compare, pairs
from paper_figures.designs import BY_NETWORK, own
from paper_figures.pages.report import claims
from paper_figures.records.training import Records
from tests import synthetic_records
from tests.synthetic_records import STASH, Accuracies, made_records, made_runs

_THEORY = synthetic_records.theory_tables()
_GOOD, _BAD = [0.969, 0.973, 0.967, 0.972], [0.90, 0.91, 0.90, 0.90]


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        ({"ema-span": _GOOD, "ema-window": _BAD}, "reproduced"),
        ({"ema-span": _BAD, "ema-window": _BAD}, "not reproduced"),
        ({"ema-span": _BAD, "ema-window": [0.94, 0.99, 0.95, 0.98]}, "inconclusive (n=4)"),
        ({"ema-0.9": _GOOD}, "inconclusive (n=0)"),  # a fixed decay is not the paper's method
        ({"ema-span": _GOOD[:1]}, "inconclusive (n=1)"),
        ({"ema-span": [0.97, None, 0.968, 0.97]}, "not reproduced"),
    ],
)
def test_verdict_on_accuracy(rules: Accuracies, verdict: str) -> None:
    records = made_records(made_runs({"stash": list(STASH), "latest": list(_BAD), **rules}))
    assert training.reconstruction_keeps_accuracy(records, Settings()).word == verdict


def test_equivalent_on_average_with_a_loss_in_one_partition_is_not_reproduced_by_averaging() -> None:
    good = made_runs({"stash": [0.97] * 4, "ema-span": [0.97] * 4})
    many = [good.assign(group_size=g, num_stages=10 - g) for g in range(1, 8)]
    deep = made_runs({"stash": [0.97] * 4, "ema-span": [0.93, 0.94, 0.95, 0.94]}).assign(group_size=8, num_stages=2)
    records = made_records(*many, deep)
    claim = training.reconstruction_keeps_accuracy(records, Settings())
    assert families.pooled(records.runs, Settings())["outcome"].item() == "equivalent"
    assert claim.word != "reproduced"
    assert any("beyond the margin in some partition: EMA span" in line for line in claim.evidence)


@pytest.mark.parametrize(
    ("latest", "words"),
    [(_GOOD, "no evidence that the reconstruction is needed"), (_BAD, "tells strategies apart"), ([], "not decided")],
)
def test_control(latest: list[float | None], words: str) -> None:
    records = made_records(made_runs({"stash": list(STASH), "latest": latest, "ema-span": list(_GOOD)}))
    assert any(words in line for line in training.reconstruction_keeps_accuracy(records, Settings()).evidence)


@pytest.mark.parametrize(("latest", "rule", "said"), [(_GOOD, _GOOD, True), (_BAD, _GOOD, False), (_GOOD, _BAD, False)])
def test_a_verdict_says_if_no_history_does_as_well(
    latest: list[float | None], rule: list[float | None], said: bool
) -> None:
    records = made_records(made_runs({"stash": list(STASH), "latest": latest, "ema-span": rule}))
    claim = training.reconstruction_keeps_accuracy(records, Settings())
    assert ("(also within 2 points: the latest weights" in claim.word_and_caveat) == said
    assert claim.word_and_caveat.startswith(claim.word)


def test_kinds_of_networks_need_each_other() -> None:
    columns: Accuracies = {"stash": list(STASH), "ema-span": list(_GOOD)}
    mlp, conv = made_runs(columns), made_runs(columns, network="vgg")
    lost = made_runs(columns | {"ema-span": list(_BAD)}, network="vgg")
    for runs, verdict in (
        ((mlp,), "inconclusive (n=0)"),
        ((mlp, conv), "reproduced"),
        ((mlp, lost), "not reproduced"),
    ):
        assert training.kinds_of_networks(made_records(*runs), Settings()).word == verdict


def test_structure_claims_hold_on_lawful_records_and_fail_on_others() -> None:
    tables = synthetic_records.make(seeds=1)
    judge = (
        structure.structure_alone,
        structure.downstream_stages,
        structure.shared_delay,
        structure.memory_cost,
    )
    assert [claim(Records(**tables), _THEORY).word for claim in judge] == ["reproduced"] * 4
    stages = tables["stages"].assign(delay=tables["stages"]["delay"] + (tables["stages"]["stage"] == 0))
    broken = Records(**(tables | {"stages": stages}))
    assert [claim(broken, _THEORY).word for claim in judge] == ["not reproduced"] * 4
    sequential = tables["runs"]["num_stages"] == 1
    alone = tables["stages"].groupby(["network", "group_size"]).filter(lambda rows: len(rows) == 1)
    none = Records(**(tables | {"stages": alone, "runs": tables["runs"][sequential]}))
    assert [claim(none, _THEORY).word for claim in judge] == ["inconclusive (n=0)"] * 4


def test_one_seed_is_never_a_verdict_on_accuracy() -> None:
    found = {claim.key: claim.word for claim in claims(synthetic_records.records(seeds=1), _THEORY, Settings())}
    assert found["C6"].startswith("inconclusive")
    assert found["C8"].startswith("inconclusive")


def test_equal_to_a_stash_that_does_not_train_is_no_evidence() -> None:
    baseline = made_runs({"sequential": [0.97, 0.97, 0.97, 0.97]}).assign(group_size=9, num_stages=1)
    flat = made_runs({"stash": [0.11, 0.12, 0.11, 0.12], "ema-span": [0.11, 0.12, 0.11, 0.12]})
    records = made_records(baseline, flat)
    claim = training.reconstruction_keeps_accuracy(records, Settings())
    assert claim.word == "inconclusive (n=0)"
    assert any("as stash does not train: MLP at 9 stages" in line for line in claim.evidence)


def test_the_pair_is_compared_apart_from_the_papers_reconstructions() -> None:
    good = made_runs({"stash": list(STASH), "latest": list(_BAD), "ema-span": list(_GOOD), "pair": list(_BAD)})
    records = made_records(good)
    assert set(families.cells(records.runs, Settings())["strategy"]) == {"ema-span"}
    assert set(families.cells(records.runs, Settings(), own)["strategy"]) == {"pair"}
    alone = compare(pairs(good[good["strategy"] != "pair"], "stash", BY_NETWORK), BY_NETWORK.cell, Settings())
    alone = alone[alone["strategy"] == "ema-span"]
    together = families.cells(records.runs, Settings())
    assert together["mean"].item() == alone["mean"].item()
    assert together["p_equivalent"].item() >= alone["p_equivalent"].item()  # no easier test for either family
    assert training.reconstruction_keeps_accuracy(records, Settings()).word == "reproduced"
    lines = training.own_sentences(records, Settings())
    assert [line.split(": ")[-1] for line in lines] == ["worse.", "equivalent."]
    assert "against stash" in lines[0]
    assert "against latest" in lines[1]


def test_what_is_said_beside_the_verdict() -> None:
    blind = {"ema-0.9": [0.971, 0.974, 0.969, 0.972], "ema-span": list(_GOOD), "latest": [0.962, 0.963, 0.961, 0.962]}
    shallow = made_runs({"stash": list(STASH)} | blind).assign(num_stages=5, group_size=2)
    deep = made_runs({"stash": list(STASH)} | blind | {"latest": [0.955, 0.958, 0.953, 0.956]})
    records = made_records(shallow, deep)
    claim = training.reconstruction_keeps_accuracy(records, Settings())
    said = " ".join(claim.evidence)
    assert "EMA 0.9: +0.13 points" in said
    assert "no candidate for the claim" in said
    assert "measurably worse, though within the margin" in said
    assert "At each network's deepest pipeline, points against stash: latest -1.48" in said
    assert "no evidence that it should be tied to the delay" in said
    assert claim.caveat == "also within 2 points: the latest weights (no history) and EMA 0.9"


def test_the_claims_are_those_of_the_documentation() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "scope.md").read_text()
    rows = dict(re.findall(r"^\| (C\d) \| (.*) \|$", documented, re.MULTILINE))
    assert rows == {claim.key: claim.question for claim in claims(synthetic_records.records(), _THEORY, Settings())}


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
        found = claims(records, replace(_THEORY, proofs=proofs), Settings())
        assert {c.key for c in found if c.word == "not reproduced"} >= keys, claim
        assert {c.key for c in found if c.key in ("C1", "C2", "C3", "C4", "C5") and c.word == "reproduced"} == (
            {"C1", "C2", "C3", "C4", "C5"} - keys
        )
    none = replace(_THEORY, proofs=_THEORY.proofs.head(0))
    assert structure.formal_derivation(none).word == "inconclusive (n=0)"
    assert structure.structure_alone(records, none).word == "inconclusive (n=0)"


def test_recorded_delays_that_are_not_the_derived_ones_are_found() -> None:
    records = synthetic_records.records(seeds=1)
    same, known = structure.against_derivation(records.stages, _THEORY, "layerpipe2")
    assert same == known > 0
    off = records.stages.assign(delay=records.stages["delay"] + 1)
    assert structure.against_derivation(off, _THEORY, "layerpipe2") == (0, known)
