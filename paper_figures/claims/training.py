"""Claims about accuracy: C6 (reconstruction loses none) and C8 (on fully connected and convolutional networks)."""

from __future__ import annotations

import pandas as pd

from layerpipe2.networks import NETWORKS
from paper_figures.claims import claim_verdict
from paper_figures.claims import sentences as say
from paper_figures.claims.families import KINDS, by_kind, cells, pooled
from paper_figures.comparisons import Settings
from paper_figures.designs import BY_NETWORK, LEARNT, informative, pipeline_aware
from paper_figures.records.training import Records
from paper_figures.text import network_label
from paper_figures.verdicts import CLAIM, OUTCOMES, Answer, Verdict, both


def reconstruction_keeps_accuracy(records: Records, settings: Settings) -> Verdict:
    """C6: a pipeline-aware rule equivalent to stash over all networks, and in no single partition a loss."""
    total, single = pooled(records, settings), informative(cells(records, settings), records.runs, BY_NETWORK)
    aware = pipeline_aware(total["strategy"])
    bad = set(single.loc[single["outcome"].map(OUTCOMES) == Answer.NO, "strategy"])
    answers = dict(zip(total["strategy"], total["outcome"].map(OUTCOMES), strict=True))
    low = set(single.loc[single["mean"] < -settings.margin, "strategy"])
    good = [s for s in aware if answers[s] == Answer.YES and s not in bad | low]
    failed = [s for s in aware if s in bad or answers[s] == Answer.NO]
    answer = Answer.YES if good else Answer.NO if aware and len(failed) == len(aware) else Answer.UNDECIDED
    evidence = [say.verdict(row, settings) for row in total.to_dict("records")]
    evidence.append(
        f"Equivalent over all, without a loss in any partition: {say.names(good)}. Shown to lose: {say.names(failed)}. "
        f"Mean loss beyond the margin in some partition: {say.names([s for s in aware if s in low])}."
    )
    evidence += [
        say.baseline(records),
        say.latest(records, settings),
        say.at_the_deepest(records, settings),
        say.against_latest(records, settings),
    ]
    n, caveat = _blocks(total[total["strategy"].isin(aware)]), say.caveat(answer, records, settings)
    demands = {"margin": settings.margin, "level": settings.level, "learnt": 100 * LEARNT}
    return claim_verdict("C6", answer, evidence, n=n, caveat=caveat, **demands)


def kinds_of_networks(records: Records, settings: Settings) -> Verdict:
    """C8 without spiking networks: in each of the two kinds some pipeline-aware rule is equivalent to stash."""
    table = by_kind(records, settings)
    answers, numbers, evidence = [], [], []
    for kind in KINDS:
        mine = table[table["kind"] == kind]
        networks = sorted({network_label(n) for n in records.networks if NETWORKS[n].kind == kind})
        found = {OUTCOMES.get(outcome, Answer.UNDECIDED) for outcome in mine["outcome"]}
        answer = Answer.YES if Answer.YES in found else Answer.NO if found == {Answer.NO} else Answer.UNDECIDED
        answers.append(answer)
        numbers.append(_blocks(mine))
        evidence.append(
            f"{kind.capitalize()} ({', '.join(networks) or 'none trained'}): {CLAIM.word(answer, numbers[-1])}."
        )
        evidence += [f"{kind.capitalize()}, {say.verdict(row, settings)}" for row in mine.to_dict("records")]
    answer = both(*answers)
    evidence.append("Spiking networks: not tested.")
    caveat = "; ".join(filter(None, [say.caveat(answer, records, settings), "spiking networks not tested"]))
    return claim_verdict("C8", answer, evidence, n=min(numbers), caveat=caveat)


def _blocks(table: pd.DataFrame) -> int:
    """The fewest blocks of a comparison of the table."""
    return int(table["n"].min()) if len(table) else 0
