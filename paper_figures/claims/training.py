"""Claims about accuracy: C6 (reconstruction loses none) and C8 (on fully connected and convolutional networks)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paper_figures.claims import NOT_REPRODUCED, REPRODUCED, STATEMENTS, Claim, inconclusive, word
from paper_figures.claims.comparisons import (
    KINDS,
    LEARNT,
    by_kind,
    cells,
    control,
    informative,
    own_pooled,
    pooled,
    untrained,
)
from paper_figures.claims.equivalence import Settings, pipeline_aware
from paper_figures.labels import network_label
from paper_figures.records import CONFIGURATION, Records
from paper_figures.style import ordered, style


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
    evidence = [_sentence(row) for row in total.to_dict("records")]
    evidence.append(
        f"Equivalent over all, without a loss in any partition: {_names(good)}. Shown to lose: {_names(failed)}. "
        f"Mean loss beyond the margin in some partition: {_names([s for s in aware if s in low])}."
    )
    evidence += [
        _baseline_sentence(records),
        _control_sentence(records, settings),
        _superiority_sentence(records, settings, aware),
    ]
    test = (
        f"Paired over blocks of network x seed, margin {settings.margin:g} points, level {settings.level:g}, "
        "Holm-corrected over the reconstructions: two one-sided t tests against exact stashing. Reproduced if a "
        "pipeline-aware rule is equivalent and loses in no partition (mean loss beyond the margin, or diverged where "
        "stashing did not); not reproduced if every pipeline-aware rule is shown to lose, over all or in a partition. "
        f"Partitions where stashing itself stays below {100 * LEARNT:g} % of the sequential accuracy are left out."
    )
    return Claim("C6", STATEMENTS["C6"], verdict, test, tuple(evidence), _caveat(verdict, records, settings))


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
        evidence += [f"{kind.capitalize()}, {_sentence(row)}" for row in mine.to_dict("records")]
    found = [verdict for verdict, _ in verdicts]
    if all(verdict == REPRODUCED for verdict in found):
        verdict = REPRODUCED
    else:
        verdict = NOT_REPRODUCED if NOT_REPRODUCED in found else inconclusive(min(n for _, n in verdicts))
    test = "The test of C6 within each kind of network, Holm-corrected over kinds and pipeline-aware rules. Reproduced "
    test += "if each kind has an equivalent rule; not reproduced if every rule shows a loss in one kind."
    evidence.append("Spiking networks: not tested.")
    return Claim("C8", STATEMENTS["C8"], verdict, test, tuple(evidence), _caveat(verdict, records, settings))


def own_sentences(records: Records, settings: Settings) -> tuple[str, ...]:
    """This project's own reconstructions, pooled, against stash and against the latest weights; no verdict."""
    lines = []
    for reference in ("stash", "latest"):
        for row in own_pooled(records, settings, reference).to_dict("records"):
            label = style(str(row["strategy"])).label
            lines.append(f"{label}: {_difference(row, style(reference).label)}: {row['outcome']}.")
    return tuple(lines)


def _names(strategies: list[str]) -> str:
    return ", ".join(style(name).label for name in ordered(strategies)) or "none"


def _sentence(row: Mapping[str, object]) -> str:
    outcome = word(str(row["outcome"]), int(str(row["n"])))
    return f"{style(str(row['strategy'])).label}: {_difference(row, 'stash')}: {outcome}."


def _difference(row: Mapping[str, object], reference: str) -> str:
    lost = f"; diverged alone in {_pairs(row['lost'])}" if row["lost"] else ""
    if row["n"] == 0:
        return f"no pair of completed runs{lost}"
    interval = f", interval {row['low']:+.2f} to {row['high']:+.2f}" if row["n"] != 1 else ""
    blocks = f"n={row['n']} blocks of {_pairs(row['pairs'])}"
    return f"{row['mean']:+.2f} points against {reference}{interval}, {blocks}{lost}"


def _pairs(count: object) -> str:
    return f"{count} pair" if count == 1 else f"{count} pairs"


def _baseline_sentence(records: Records) -> str:
    """How far stash is from sequential training: what the delay itself costs, whatever the backward pass uses."""
    mean = 100 * records.runs.groupby([*CONFIGURATION, "num_stages", "strategy"])["test_accuracy"].mean()
    table = mean.rename("percent").reset_index()
    base = table[table["strategy"] == "sequential"].set_index("network")["percent"]
    stash = table[(table["strategy"] == "stash") & table["network"].isin(base.index)]
    gaps = stash["percent"].to_numpy() - base.reindex(stash["network"]).to_numpy()
    gaps = gaps[~np.isnan(gaps)]
    left_out = [f"{network_label(network)} at {stages} stages" for network, _, stages in untrained(records)]
    cost = f"{gaps.min():+.2f} to {gaps.max():+.2f} points by partition" if len(gaps) else "not recorded"
    named = ", ".join(left_out) or "none"
    return f"Stash against sequential training: {cost}. Left out, as stash does not train: {named}."


def _caveat(verdict: str, records: Records, settings: Settings) -> str:
    """Equality is weak evidence where doing without any history is equal, too."""
    table = control(records, settings)
    equal = not table.empty and table["outcome"].iloc[0] in ("equivalent", "better")
    if not equal or verdict != REPRODUCED:
        return ""
    return f"within {settings.margin:g} points the latest weights, without any history, are equivalent too"


def _control_sentence(records: Records, settings: Settings) -> str:
    table = control(records, settings)
    if table.empty or table["outcome"].iloc[0] == "undecided":
        return "Control: whether the latest weights do worse than stash is not decided by these runs."
    row = table.iloc[0]
    mean = f"{row['mean']:+.2f} points (n={row['n']})" if row["n"] else "no completed pair"
    if row["outcome"] in ("worse", "diverged"):
        lost = f"diverge where stash does not in {_pairs(row['lost'])}, else" if row["lost"] else "do worse than stash,"
        return f"Control: the latest weights {lost} {mean}: this experiment tells strategies apart."
    return (
        f"Control: the latest weights do as well as stash, {mean}, so at this scale "
        "equal accuracy is no evidence that the reconstruction is needed."
    )


def _superiority_sentence(records: Records, settings: Settings, aware: list[str]) -> str:
    table = pooled(records, settings, "latest")
    parts = []
    for row in table[table["strategy"].isin(aware)].to_dict("records"):
        shown = "superior" if row["p_superior"] < settings.level else "superiority not shown"
        mean = f"{row['mean']:+.2f} points, n={row['n']}" if row["n"] else "no completed pair"
        won = f", latest diverged alone in {_pairs(row['won'])}" if row["won"] else ""
        parts.append(f"{style(row['strategy']).label} {shown} ({mean}{won})")
    return f"Against the latest weights: {'; '.join(parts) or 'not compared'}."
