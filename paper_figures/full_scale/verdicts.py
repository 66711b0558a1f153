"""The verdicts of the page, each computed from a family of comparisons."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from paper_figures.claims import NOT_REPRODUCED, REPRODUCED, inconclusive
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale import comparisons
from paper_figures.style import style
from paper_figures.tables import number

NOT_TESTED, NO_ANSWER = "not tested", "no answer"
_LOSS = ("worse", "diverged")


@dataclass(frozen=True)
class Verdict:
    """A question, its answer in a word, and under which conditions it holds."""

    question: str
    answer: str
    conditions: str


def verdicts(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    """All of them, in the order of the page; cells in which stash itself does not train are left out."""
    reason = f"exact stashing itself does not train: {comparisons.left_out(runs)}"
    answered = {v.question: v for v in _found(comparisons.informative(runs), settings) if v.answer != NOT_TESTED}
    return [v if v.answer == NOT_TESTED else answered.get(v.question, Verdict(v.question, NO_ANSWER, reason))
            for v in _found(runs, settings)]  # fmt: skip


def _found(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    return [_control(runs, settings), *_equivalence(runs, settings), *_superiority(runs, settings),
            _shown(comparisons.applied_against_raw(runs, settings), settings,
                   "Is averaging the applied update better than averaging lr x gradient?"),
            _shown(comparisons.warm_up_against_none(runs, settings), settings,
                   "Does a warm-up with exact weights help?")]  # fmt: skip


def _control(runs: pd.DataFrame, settings: Settings) -> Verdict:
    table = comparisons.latest_against_stash(runs, settings)
    told = table[table["outcome"].isin(_LOSS)]
    question = "Can these runs tell the latest weights from exact stashing?"
    if table.empty:
        return Verdict(question, NOT_TESTED, "no such runs")
    rest = f"{_cells(table[~table.index.isin(told.index)])}: not told apart"
    return Verdict(question, "yes" if len(told) else "no", f"{_cells(told)}: latest loses; {rest}.")


def _equivalence(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    table = comparisons.against_stash(runs, settings)
    names = comparisons.candidates(runs)
    p_everywhere = comparisons.everywhere(runs, names, "stash", "equivalent", settings)
    found = []
    for name in names:
        mine = table[table["strategy"] == name]
        held, lost = mine["outcome"].isin(["equivalent", "better"]), mine["outcome"].isin(_LOSS)
        answer = inconclusive(int(mine["n"].min()) if len(mine) else 0)
        if p_everywhere[name] < settings.level:
            answer = REPRODUCED
        elif lost.any():
            answer = "in part" if held.any() else NOT_REPRODUCED
        parts = {"no loss": mine[held], "loss": mine[lost], "undecided by itself": mine[~held & ~lost]}
        question = f"C6: {style(name).label} as accurate as exact stashing (within {settings.margin:g} points)?"
        conditions = f"{_listed(parts)} p everywhere: {number(4)(p_everywhere[name])}"
        found.append(Verdict(question, answer, conditions))
    return found


def _superiority(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    table = comparisons.against_latest(runs, settings)
    names = comparisons.candidates(runs)
    p_everywhere = comparisons.everywhere(runs, names, "latest", "superior", settings)
    found = []
    for name in names:
        question = f"{style(name).label} more accurate than the latest weights?"
        shown = _shown(table[table["strategy"] == name], settings, question)
        if p_everywhere[name] < settings.level:
            shown = replace(shown, answer="yes")
        where = f"{shown.conditions} p everywhere: {number(4)(p_everywhere[name])}"
        found.append(replace(shown, conditions=where))
    return found


def _shown(table: pd.DataFrame, settings: Settings, question: str) -> Verdict:
    """Superiority in every comparison, in some, or in none.

    A reference that diverged alone counts as shown, unless it is all that there is.
    """
    if table.empty:
        return Verdict(question, NOT_TESTED, "no such runs")
    # An outcome of "diverged" is a loss of ours, whatever the mean over the other seeds says.
    superior = ((table["p_superior"] < settings.level) | ((table["won"] > 0) & (table["won"] + table["n"] > 1))) & (
        table["outcome"] != "diverged"
    )
    answer = "yes" if superior.all() else "in part" if superior.any() else "not shown"
    return Verdict(question, answer, _listed({"shown": table[superior], "not shown": table[~superior]}))


def _listed(parts: dict[str, pd.DataFrame]) -> str:
    return "; ".join(f"{word}: {_cells(rows)}" for word, rows in parts.items() if len(rows)) + "."


def _cells(rows: pd.DataFrame) -> str:
    """The conditions of the rows, as in ``momentum at 5, 10 stages (n=3)``."""
    texts = []
    several = rows["strategy"].nunique() > 1 if len(rows) else False
    for (optimizer, strategy), group in rows.groupby(["optimizer", "strategy"], sort=False):
        stages = ", ".join(str(s) for s in sorted(group["num_stages"]))
        name = f"{style(str(strategy)).label}, " if several else ""
        texts.append(f"{name}{optimizer} at {stages} stages (n={int(group['n'].min())})")
    return "; ".join(texts) or "nowhere"
