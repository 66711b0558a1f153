"""Claims about accuracy: C6 (reconstruction loses none) and C8 (on fully connected and convolutional networks)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from paper_figures.claims import NOT_REPRODUCED, REPRODUCED, STATEMENTS, Claim, inconclusive, word
from paper_figures.equivalence import CELL, Settings, compare, pairs, pipeline_aware, reconstructions
from paper_figures.records import Records
from paper_figures.style import network_label, ordered, style

KINDS: Mapping[str, str] = {
    "mlp": "fully connected",
    "vgg": "convolutional",
    "resnet18": "convolutional",
    "resnet-small": "convolutional",
}
"""Network -> the kind of network of claim C8."""

_BLOCK = ["network", "seed"]


def cells(records: Records, settings: Settings) -> pd.DataFrame:
    """Each reconstruction against stash, per network and partition; the block is the seed. One Holm family."""
    return compare(_paired(records, "stash"), CELL, ["seed"], settings)


def pooled(records: Records, settings: Settings, reference: str = "stash") -> pd.DataFrame:
    """Each reconstruction against ``reference`` over all networks and partitions. One Holm family.

    The block is network x seed: the partitions of one network share initial weights and batches, so their
    differences are averaged, not counted.
    """
    return compare(_paired(records, reference), ["strategy"], _BLOCK, settings)


def by_kind(records: Records, settings: Settings) -> pd.DataFrame:
    """Each pipeline-aware reconstruction against stash per kind of network. One Holm family."""
    paired = _paired(records, "stash")
    paired = paired[paired["strategy"].isin(pipeline_aware(paired["strategy"].unique()))]
    paired = paired.assign(kind=paired["network"].map(KINDS))
    return compare(paired[paired["kind"].notna()], ["kind", "strategy"], _BLOCK, settings)


def control(records: Records, settings: Settings) -> pd.DataFrame:
    """Latest weights against stash, pooled: can this experiment tell a bad strategy from a good one?"""
    paired = pairs(records.runs, "stash")
    return compare(paired[paired["strategy"] == "latest"], ["strategy"], _BLOCK, settings)


def _paired(records: Records, reference: str) -> pd.DataFrame:
    paired = pairs(records.runs, reference)
    wanted = ordered(reconstructions(paired["strategy"].unique()))
    places = {name: place for place, name in enumerate(wanted)}
    return paired[paired["strategy"].isin(wanted)].sort_values("strategy", key=lambda s: s.map(places), kind="stable")


def reconstruction_keeps_accuracy(records: Records, settings: Settings) -> Claim:
    """C6: a pipeline-aware rule equivalent to stash over all networks, and in no single partition a loss."""
    total, single = pooled(records, settings), cells(records, settings)
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
    evidence += [_control_sentence(records, settings), _superiority_sentence(records, settings, aware)]
    test = (
        f"Paired over blocks of network x seed, margin {settings.margin:g} points, level {settings.level:g}, "
        "Holm-corrected over the reconstructions: two one-sided t tests against exact stashing. Reproduced if a "
        "pipeline-aware rule is equivalent and loses in no partition (mean loss beyond the margin, or diverged where "
        "stashing did not); not reproduced if every pipeline-aware rule is shown to lose, over all or in a partition."
    )
    return Claim("C6", STATEMENTS["C6"], verdict, test, tuple(evidence))


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
    return Claim("C8", STATEMENTS["C8"], verdict, test, (*evidence, "Spiking networks: not tested."))


def _names(strategies: list[str]) -> str:
    return ", ".join(style(name).label for name in ordered(strategies)) or "none"


def _sentence(row: Mapping[str, object]) -> str:
    label, lost = style(str(row["strategy"])).label, f"; diverged alone in {row['lost']} pairs" if row["lost"] else ""
    if row["n"] == 0:
        return f"{label}: no pair of completed runs{lost}."
    interval = f", interval {row['low']:+.2f} to {row['high']:+.2f}" if row["n"] != 1 else ""
    return (
        f"{label}: {row['mean']:+.2f} points against stash{interval}, n={row['n']} blocks of {row['pairs']} pairs"
        f"{lost}: {word(str(row['outcome']), int(str(row['n'])))}."
    )


def _control_sentence(records: Records, settings: Settings) -> str:
    table = control(records, settings)
    if table.empty or table["outcome"].iloc[0] == "undecided":
        return "Control: whether the latest weights do worse than stash is not decided by these runs."
    row = table.iloc[0]
    if row["outcome"] in ("worse", "diverged"):
        lost = f", and {row['lost']} runs diverged alone" if row["lost"] else ""
        mean = f"{row['mean']:+.2f} points (n={row['n']})" if row["n"] else "no completed pair"
        return f"Control: the latest weights do worse than stash, {mean}{lost}: this experiment tells strategies apart."
    return (
        f"Control: the latest weights do as well as stash ({row['mean']:+.2f} points, n={row['n']}), so at this scale "
        "equal accuracy is no evidence that the reconstruction is needed."
    )


def _superiority_sentence(records: Records, settings: Settings, aware: list[str]) -> str:
    table = pooled(records, settings, "latest")
    parts = []
    for row in table[table["strategy"].isin(aware)].to_dict("records"):
        shown = "superior" if row["p_superior"] < settings.level else "superiority not shown"
        mean = f"{row['mean']:+.2f} points, n={row['n']}" if row["n"] else "no completed pair"
        won = f", latest diverged alone in {row['won']} pairs" if row["won"] else ""
        parts.append(f"{style(row['strategy']).label} {shown} ({mean}{won})")
    return f"Against the latest weights: {'; '.join(parts) or 'not compared'}."
