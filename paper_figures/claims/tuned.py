"""The verdicts on a tuned experiment, each computed from a family of comparisons."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from layerpipe2.history import find_strategy
from paper_figures.claims import tuned_families as families
from paper_figures.comparisons import Settings, everywhere, pairs
from paper_figures.designs import BY_OPTIMIZER, LATEST, STASH, informative
from paper_figures.text import number
from paper_figures.verdicts import CLAIM, OUTCOMES, QUESTION, Answer, Verdict

_P = number(4)


def verdicts(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    """All of them, in the order of the page; pipelines on which stash itself does not train are left out."""
    reason = f"exact stashing itself does not train: {families.left_out(runs)}"
    rest = _found(informative(runs, runs, BY_OPTIMIZER), settings)
    answered = {verdict.question: verdict for verdict in rest if verdict.answer != Answer.NOT_TESTED}

    def final(verdict: Verdict) -> Verdict:
        if verdict.answer == Answer.NOT_TESTED:
            return verdict
        return answered.get(verdict.question, replace(verdict, answer=Answer.NO_ANSWER, caveat=reason))

    return [final(verdict) for verdict in _found(runs, settings)]


def _found(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    applied, warm = families.applied_against_raw(runs, settings), families.warm_up_against_none(runs, settings)
    return [
        _control(runs, settings),
        *_equivalence(runs, settings),
        *_superiority(runs, settings),
        _shown(applied, settings, "Is averaging the applied update better than averaging lr x gradient?"),
        _shown(warm, settings, "Does a warm-up with exact weights help?"),
    ]


def _control(runs: pd.DataFrame, settings: Settings) -> Verdict:
    table = families.latest_against_stash(runs, settings)
    lost = table["outcome"].map(OUTCOMES) == Answer.NO
    question = "Can these runs tell the latest weights from exact stashing?"
    if table.empty:
        return Verdict(question, Answer.NOT_TESTED, QUESTION, caveat="no such runs")
    where = f"{_cells(table[lost])}: latest loses; {_cells(table[~lost])}: not told apart."
    return Verdict(question, Answer.YES if lost.any() else Answer.NO, QUESTION, caveat=where)


def _equivalence(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    table, names = families.against_stash(runs, settings), families.candidates(runs)
    p_everywhere = everywhere(pairs(runs, STASH, BY_OPTIMIZER), names, "equivalent", settings, BY_OPTIMIZER)
    found = []
    for name in names:
        mine = table[table["strategy"] == name]
        answers = mine["outcome"].map(OUTCOMES)
        kept, lost = answers == Answer.YES, answers == Answer.NO
        answer = Answer.UNDECIDED
        if p_everywhere[name] < settings.level:
            answer = Answer.YES
        elif lost.any():
            answer = Answer.IN_PART if kept.any() else Answer.NO
        parts = {"no loss": mine[kept], "loss": mine[lost], "undecided by itself": mine[~kept & ~lost]}
        label, n = find_strategy(name).label, int(mine["n"].min()) if len(mine) else 0
        question = f"C6: {label} as accurate as exact stashing (within {settings.margin:g} points)?"
        where = f"{_listed(parts)} p everywhere: {_P(p_everywhere[name])}"
        found.append(Verdict(question, answer, CLAIM, n, caveat=where))
    return found


def _superiority(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    table, names = families.against_latest(runs, settings), families.candidates(runs)
    p_everywhere = everywhere(pairs(runs, LATEST, BY_OPTIMIZER), names, "superior", settings, BY_OPTIMIZER)
    found = []
    for name in names:
        question = f"{find_strategy(name).label} more accurate than the latest weights?"
        shown = _shown(table[table["strategy"] == name], settings, question)
        answer = Answer.YES if p_everywhere[name] < settings.level else shown.answer
        where = f"{shown.caveat} p everywhere: {_P(p_everywhere[name])}"
        found.append(replace(shown, answer=answer, caveat=where))
    return found


def _shown(table: pd.DataFrame, settings: Settings, question: str) -> Verdict:
    """Superiority in every comparison, in some, or in none.

    A reference that diverged alone counts as shown, unless it is all that there is.
    """
    if table.empty:
        return Verdict(question, Answer.NOT_TESTED, QUESTION, caveat="no such runs")
    # An outcome of "diverged" is a loss of ours, whatever the mean over the other seeds says.
    superior = ((table["p_superior"] < settings.level) | ((table["won"] > 0) & (table["won"] + table["n"] > 1))) & (
        table["outcome"] != "diverged"
    )
    answer = Answer.YES if superior.all() else Answer.IN_PART if superior.any() else Answer.UNDECIDED
    where = _listed({"shown": table[superior], "not shown": table[~superior]})
    return Verdict(question, answer, QUESTION, caveat=where)


def _listed(parts: dict[str, pd.DataFrame]) -> str:
    return "; ".join(f"{word}: {_cells(rows)}" for word, rows in parts.items() if len(rows)) + "."


def _cells(rows: pd.DataFrame) -> str:
    """The conditions of the rows, as in ``momentum at 5, 10 stages (n=3)``."""
    texts = []
    several = rows["strategy"].nunique() > 1 if len(rows) else False
    for (optimizer, strategy), group in rows.groupby(["optimizer", "strategy"], sort=False):
        stages = ", ".join(str(s) for s in sorted(group["num_stages"]))
        name = f"{find_strategy(str(strategy)).label}, " if several else ""
        texts.append(f"{name}{optimizer} at {stages} stages (n={int(group['n'].min())})")
    return "; ".join(texts) or "nowhere"
