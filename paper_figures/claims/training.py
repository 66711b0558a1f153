"""Claims about accuracy: C6 (reconstruction loses none) and C8 (on fully connected and convolutional networks).

What the comparisons say stands in sentences, in which every number is computed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from layerpipe2.history import find_strategy
from layerpipe2.networks import NETWORKS
from paper_figures.claims import claim_verdict
from paper_figures.claims.families import KINDS, by_kind, cells, control, deepest, pooled
from paper_figures.comparisons import Settings
from paper_figures.designs import (
    BY_NETWORK,
    LATEST,
    LEARNT,
    SEQUENTIAL,
    STASH,
    informative,
    own,
    pipeline_aware,
    untrained,
)
from paper_figures.records.training import Records
from paper_figures.style import ordered
from paper_figures.text import network_label, plural
from paper_figures.verdicts import CLAIM, OUTCOMES, Answer, Verdict, both, outcome_word

_EQUAL = [outcome for outcome, answer in OUTCOMES.items() if answer == Answer.YES]


def reconstruction_keeps_accuracy(records: Records, settings: Settings) -> Verdict:
    """C6: a pipeline-aware rule equivalent to stash over all networks, and in no single partition a loss."""
    total, single = pooled(records.runs, settings), informative(cells(records.runs, settings), records.runs, BY_NETWORK)
    aware = pipeline_aware(total["strategy"])
    bad = set(single.loc[single["outcome"].map(OUTCOMES) == Answer.NO, "strategy"])
    answers = dict(zip(total["strategy"], total["outcome"].map(OUTCOMES), strict=True))
    low = set(single.loc[single["mean"] < -settings.margin, "strategy"])
    good = [s for s in aware if answers[s] == Answer.YES and s not in bad | low]
    failed = [s for s in aware if s in bad or answers[s] == Answer.NO]
    answer = Answer.YES if good else Answer.NO if aware and len(failed) == len(aware) else Answer.UNDECIDED
    evidence = [_comparison(row, settings) for row in total.to_dict("records")]
    evidence.append(
        f"Equivalent over all, without a loss in any partition: {_names(good)}. Shown to lose: {_names(failed)}. "
        f"Mean loss beyond the margin in some partition: {_names([s for s in aware if s in low])}."
    )
    evidence += [
        _baseline(records),
        _latest(records, settings),
        _at_the_deepest(records, settings),
        _against_latest(records, settings),
    ]
    n, caveat = _blocks(total[total["strategy"].isin(aware)]), _caveat(answer, records, settings)
    demands = {"margin": settings.margin, "level": settings.level, "learnt": 100 * LEARNT}
    return claim_verdict("C6", answer, evidence, n=n, caveat=caveat, **demands)


def kinds_of_networks(records: Records, settings: Settings) -> Verdict:
    """C8 without spiking networks: in each of the two kinds some pipeline-aware rule is equivalent to stash."""
    table = by_kind(records.runs, settings)
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
        evidence += [f"{kind.capitalize()}, {_comparison(row, settings)}" for row in mine.to_dict("records")]
    answer = both(*answers)
    evidence.append("Spiking networks: not tested.")
    caveat = "; ".join(filter(None, [_caveat(answer, records, settings), "spiking networks not tested"]))
    return claim_verdict("C8", answer, evidence, n=min(numbers), caveat=caveat)


def _blocks(table: pd.DataFrame) -> int:
    """The fewest blocks of a comparison of the table."""
    return int(table["n"].min()) if len(table) else 0


def _comparison(row: Mapping[str, Any], settings: Settings) -> str:
    """A comparison with exact stashing and its verdict; a fixed decay is no candidate for the claim."""
    outcome = outcome_word(row["outcome"], row["n"])
    if not pipeline_aware([row["strategy"]]):
        outcome = f"{row['outcome']} (its decay knows nothing of the delay: no candidate for the claim)"
    return f"{find_strategy(row['strategy']).label}: {_difference(row, 'stash', settings)}: {outcome}."


def _names(strategies: list[str]) -> str:
    """Strategies for readers, in the order of all figures."""
    return ", ".join(find_strategy(name).label for name in ordered(strategies)) or "none"


def _difference(row: Mapping[str, Any], reference: str, settings: Settings) -> str:
    """``-0.21 points against stash, 90 % interval -0.54 to +0.11, n=9 blocks of 27 pairs``."""
    lost = f"; diverged alone in {plural(row['lost'], 'pair')}" if row["lost"] else ""
    if row["n"] == 0:
        return f"no pair of completed runs{lost}"
    blocks = f"n={row['n']} blocks of {plural(row['pairs'], 'pair')}"
    return f"{row['mean']:+.2f} points against {reference}{interval(row, settings)}, {blocks}{lost}"


def interval(row: Mapping[str, Any], settings: Settings) -> str:
    """``, 90 % interval -0.54 to +0.11``; nothing for a single block."""
    if row["n"] == 1:
        return ""
    return f", {100 * (1 - 2 * settings.level):g} % interval {row['low']:+.2f} to {row['high']:+.2f}"


def _caveat(answer: Answer, records: Records, settings: Settings) -> str:
    """Equality is weak evidence where doing without any history, or with a blind one, is equal too."""
    if answer != Answer.YES:
        return ""
    total, without = pooled(records.runs, settings), control(records.runs, settings)
    equal = ["the latest weights (no history)"] if set(without["outcome"]) & set(_EQUAL) else []
    blind = total[~total["strategy"].isin(pipeline_aware(list(total["strategy"]))) & total["outcome"].isin(_EQUAL)]
    equal += [find_strategy(name).label for name in blind["strategy"]]
    return f"also within {settings.margin:g} points: {' and '.join(equal)}" if equal else ""


def _baseline(records: Records) -> str:
    """How far stash is from sequential training: what the delay itself costs, whatever the backward pass uses."""
    mean = 100 * records.runs.groupby(BY_NETWORK.cell)["test_accuracy"].mean()
    table = mean.rename("percent").reset_index()
    base = table[table["strategy"] == SEQUENTIAL].set_index("network")["percent"]
    stash = table[(table["strategy"] == STASH) & table["network"].isin(base.index)]
    gaps = stash["percent"].to_numpy() - base.reindex(stash["network"]).to_numpy()
    gaps = gaps[~np.isnan(gaps)]
    without = untrained(records.runs, BY_NETWORK)
    left_out = [f"{network_label(network)} at {stages} stages" for network, _, stages in without]
    cost = f"{gaps.min():+.2f} to {gaps.max():+.2f} points by partition" if len(gaps) else "not recorded"
    named = ", ".join(left_out) or "none"
    return f"Stash against sequential training: {cost}. Left out, as stash does not train: {named}."


def _latest(records: Records, settings: Settings) -> str:
    """The control: can these runs tell a bad strategy from a good one?"""
    table = control(records.runs, settings)
    if table.empty or table["outcome"].iloc[0] == "undecided":
        return "Control: whether the latest weights do worse than stash is not decided by these runs."
    row = table.iloc[0].to_dict()
    result = f"Control: latest weights: {_difference(row, 'stash', settings)}"
    if row["outcome"] not in _EQUAL:
        return f"{result}: this experiment tells strategies apart."
    worse = "measurably worse, though within the margin" if row["high"] < 0 else "not measurably worse"
    return f"{result}: {worse}. So at this scale equivalence is no evidence that the reconstruction is needed."


def _at_the_deepest(records: Records, settings: Settings) -> str:
    """Where a history matters most: each network at its largest number of stages, without a test."""
    rows = deepest(records.runs, settings).to_dict("records")
    points = [
        f"{find_strategy(r['strategy']).label} {r['mean']:+.2f}{interval(r, settings)} (n={r['n']})"
        for r in rows
        if r["n"]
    ]
    return f"At each network's deepest pipeline, points against stash: {'; '.join(points) or 'no pairs'}."


def _against_latest(records: Records, settings: Settings) -> str:
    """Superiority of every reconstruction, and whether knowing the delay matters."""
    rows = pooled(records.runs, settings, LATEST).to_dict("records")
    parts, shown = [], []
    for row in rows:
        superior = row["p_superior"] < settings.level
        shown += [row["strategy"]] if superior else []
        mean = f"{row['mean']:+.2f} points{interval(row, settings)}, n={row['n']}" if row["n"] else "no completed pair"
        won = f", latest diverged alone in {plural(row['won'], 'pair')}" if row["won"] else ""
        about = f"({mean}, adjusted p {row['p_superior']:.3f}{won})"
        parts.append(
            f"{find_strategy(row['strategy']).label} {'superior' if superior else 'superiority not shown'} {about}"
        )
    text = f"Against the latest weights: {'; '.join(parts) or 'not compared'}."
    if set(shown) - set(pipeline_aware(shown)):
        text += " A decay that knows nothing of the delay is among the superior ones: these runs are no evidence that "
        text += "it should be tied to the delay."
    return text


def own_sentences(records: Records, settings: Settings) -> tuple[str, ...]:
    """This project's own reconstructions, pooled, against stash and against the latest weights; no verdict."""
    lines = []
    for reference in (STASH, LATEST):
        for row in pooled(records.runs, settings, reference, own).to_dict("records"):
            points = _difference(row, find_strategy(reference).label, settings)
            lines.append(f"{find_strategy(row['strategy']).label}: {points}: {row['outcome']}.")
    return tuple(lines)
