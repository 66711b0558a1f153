"""What the derivations prove: the verdict on C4, and the derived half of C1 to C3."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from paper_figures.claims import claim_verdict
from paper_figures.records.theory import Theory
from paper_figures.text import law_label, network_label
from paper_figures.verdicts import Answer, Verdict, exact

FORMAL = ("function", "places", "pipelined", "least delay", "uniqueness", "minimality", "period")
"""Proofs (keys of ``layerpipe2.theory.prove``) that make a derivation formal, beyond the delays that come out."""


def formal_derivation(theory: Theory) -> Verdict:
    """C4: delay insertion and retiming alone lead to the pipeline, legally, and no delay could be smaller."""
    broken, lines, n = 0, [], 0
    for convention, mine in theory.proofs.groupby("convention", sort=False):
        used = mine[mine["claim"].isin(FORMAL)]
        counts = used.groupby("claim", sort=False)["holds"].agg(["sum", "size"])
        true = ", ".join(f"{claim} {row['sum']} of {row['size']}" for claim, row in counts.iterrows())
        broken, n = broken + int((~used["holds"]).sum()), n + len(used)
        lines.append(f"{law_label(str(convention))}, {_scope(mine)}: {true}.")
    evidence = (
        *lines,
        "The number of delays is not put in: it is the least that the loops of the graph allow. PipeDream's S comes "
        "out of the same moves with a clock in which a stage does a forward or a backward task per tick, not both.",
        "The four steps are known to us from summaries of the paper; which cutsets its step 3 means is our reading.",
    )
    return claim_verdict("C4", exact(broken, n), evidence)


def derived(theory: Theory, convention: str, claims: Sequence[str], grouped: bool | None = None) -> tuple[Answer, str]:
    """Answer and sentence on some proofs of the derivations with a convention.

    Args:
        theory: the tables.
        convention: of the records.
        claims: keys of the proofs.
        grouped: only derivations with several units per stage (True) or one (False).
    """
    mine = theory.proofs[(theory.proofs["convention"] == convention) & theory.proofs["claim"].isin(claims)]
    if grouped is not None:
        mine = mine[(mine["group_size"] > 1) == grouped]
    if mine.empty:
        return Answer.UNDECIDED, f"No derivation with the delays of '{law_label(convention)}' was made."
    failed = int((~mine["holds"]).sum())
    laws = mine.groupby("stages")["delays"].nunique()
    mixed = int((laws > 1).sum())
    return exact(failed + mixed, len(mine)), (
        f"Derived without the law, from the loops of the training graph: {_scope(mine)}; {failed} of {len(mine)} "
        f"proofs ({', '.join(claims)}) fail; {mixed} of {len(laws)} stage counts have other delays in another network."
    )


def against_derivation(stages: pd.DataFrame, theory: Theory, convention: str) -> tuple[int, int]:
    """Recorded partitions that have the derived delays, and those whose derivation is there to compare with."""
    mine = theory.proofs[theory.proofs["convention"] == convention].drop_duplicates(["network", "group_size"])
    law = {(row.network, row.group_size, row.stages): row.delays for row in mine.itertuples()}
    same = known = 0
    for (network, group), rows in stages.groupby(["network", "group_size"]):
        key = (network, group, len(rows))
        if key in law:
            known += 1
            same += " ".join(map(str, rows.sort_values("stage")["delay"])) == law[key]
    return same, known


def _scope(proofs: pd.DataFrame) -> str:
    networks = ", ".join(map(network_label, dict.fromkeys(proofs["network"])))
    count = len(proofs[["network", "group_size", "convention"]].drop_duplicates())
    return f"{count} derivations ({networks}, {proofs['stages'].min()} to {proofs['stages'].max()} stages)"
