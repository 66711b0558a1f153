"""Claims about accuracy: C6 (reconstruction loses none) and C8 (on fully connected and convolutional networks)."""

from __future__ import annotations

from paper_figures.claims import NOT_REPRODUCED, REPRODUCED, STATEMENTS, Claim, inconclusive, word
from paper_figures.claims import sentences as say
from paper_figures.claims.comparisons import KINDS, LEARNT, by_kind, cells, informative, pooled
from paper_figures.claims.equivalence import Settings, pipeline_aware
from paper_figures.labels import network_label
from paper_figures.records import Records


def reconstruction_keeps_accuracy(records: Records, settings: Settings) -> Claim:
    """C6: a pipeline-aware rule equivalent to stash over all networks, and in no single partition a loss."""
    total, single = pooled(records, settings), informative(cells(records, settings), records)
    aware = pipeline_aware(list(total["strategy"]))
    bad = {str(s) for s in single.loc[single["outcome"].isin(["worse", "diverged"]), "strategy"]}
    outcomes = dict(zip(total["strategy"], total["outcome"], strict=True))
    low = {str(s) for s in single.loc[single["mean"] < -settings.margin, "strategy"]}
    good = [s for s in aware if outcomes[s] in ("equivalent", "better") and s not in bad | low]
    failed = [s for s in aware if s in bad or outcomes[s] in ("worse", "diverged")]
    n = int(total.loc[total["strategy"].isin(aware), "n"].min()) if aware else 0
    verdict = REPRODUCED if good else NOT_REPRODUCED if aware and len(failed) == len(aware) else inconclusive(n)
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
    test = (
        f"Paired over blocks of network x seed, margin {settings.margin:g} points, level {settings.level:g}, "
        "Holm-corrected over the reconstructions: two one-sided t tests against exact stashing. Reproduced if a "
        "pipeline-aware rule is equivalent and loses in no partition (mean loss beyond the margin, or diverged where "
        "stashing did not); not reproduced if every pipeline-aware rule is shown to lose, over all or in a partition. "
        f"Partitions where stashing itself stays below {100 * LEARNT:g} % of the sequential accuracy are left out."
    )
    return Claim("C6", STATEMENTS["C6"], verdict, test, tuple(evidence), say.caveat(verdict, records, settings))


def kinds_of_networks(records: Records, settings: Settings) -> Claim:
    """C8 without spiking networks: in each of the two kinds some pipeline-aware rule is equivalent to stash."""
    table = by_kind(records, settings)
    verdicts, evidence = [], []
    for kind in sorted(set(KINDS.values())):
        mine = table[table["kind"] == kind]
        names = sorted({network_label(n) for n in records.networks if KINDS.get(n) == kind})
        words = [word(row["outcome"], row["n"]) for row in mine.to_dict("records")]
        n = int(mine["n"].min()) if len(mine) else 0
        lost = NOT_REPRODUCED if set(words) == {NOT_REPRODUCED} else inconclusive(n)
        best = REPRODUCED if REPRODUCED in words else lost
        verdicts.append((best, n))
        evidence.append(f"{kind.capitalize()} ({', '.join(names) or 'none trained'}): {best}.")
        evidence += [f"{kind.capitalize()}, {say.verdict(row, settings)}" for row in mine.to_dict("records")]
    found = [verdict for verdict, _ in verdicts]
    if all(verdict == REPRODUCED for verdict in found):
        verdict = REPRODUCED
    else:
        verdict = NOT_REPRODUCED if NOT_REPRODUCED in found else inconclusive(min(n for _, n in verdicts))
    test = "The test of C6 within each kind of network, Holm-corrected over kinds and pipeline-aware rules. Reproduced "
    test += "if each kind has an equivalent rule; not reproduced if every rule shows a loss in one kind."
    evidence.append("Spiking networks: not tested.")
    caveats = [text for text in (say.caveat(verdict, records, settings), "spiking networks not tested") if text]
    return Claim("C8", STATEMENTS["C8"], verdict, test, tuple(evidence), "; ".join(caveats))
