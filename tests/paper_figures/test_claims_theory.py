"""Verdicts that rest on the derivations, against tables made by hand."""

from __future__ import annotations

from dataclasses import replace

import synthetic_records

from paper_figures.claims import structure as claims_structure
from paper_figures.claims import theory as claims_theory
from paper_figures.comparisons import Settings
from paper_figures.pages.report import claims

_THEORY = synthetic_records.theory_tables()


def test_claims_on_the_derivation_follow_the_proofs() -> None:
    records = synthetic_records.records(seeds=1)
    assert claims_theory.formal_derivation(_THEORY).word == "reproduced"
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
    assert claims_theory.formal_derivation(none).word == "inconclusive (n=0)"
    assert claims_structure.structure_alone(records, none).word == "inconclusive (n=0)"


def test_recorded_delays_that_are_not_the_derived_ones_are_found() -> None:
    records = synthetic_records.records(seeds=1)
    same, known = claims_theory.against_derivation(records.stages, _THEORY, "layerpipe2")
    assert same == known > 0
    off = records.stages.assign(delay=records.stages["delay"] + 1)
    assert claims_theory.against_derivation(off, _THEORY, "layerpipe2") == (0, known)
