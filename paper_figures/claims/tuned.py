"""The verdicts on a tuned experiment, each computed from a family of comparisons.

Each family is corrected by itself (Holm), and paired by seed. The accuracies are those on the published test set, the
same for all runs. The tests are about this set: seeds are the units. How far another one of the same size might move a
difference is shown beside it (``image_error``, an upper bound; of a text, whole windows are the images).
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from layerpipe2.history import Strategy, find_strategy
from paper_figures.comparisons import COLUMNS, Settings, compare, everywhere, pairs
from paper_figures.designs import BY_OPTIMIZER, LATEST, SEQUENTIAL, STASH, informative, own, pipeline_aware, untrained
from paper_figures.statistics import trend
from paper_figures.text import number
from paper_figures.verdicts import CLAIM, OUTCOMES, QUESTION, Answer, Verdict


def candidates(runs: pd.DataFrame) -> list[str]:
    """The strategies whose weights follow from the delay and the applied updates: the paper's method is among them."""
    names = list(dict.fromkeys(runs["strategy"]))
    return [*pipeline_aware(names), *(name for name in own(names) if not find_strategy(name).warm)]


def reconstructions(runs: pd.DataFrame) -> list[str]:
    """Every strategy that rebuilds weights, in the order of the records; not those with warm-up."""
    rows = map(find_strategy, dict.fromkeys(runs["strategy"]))
    return [row.name for row in rows if row.family in ("average", "pair") and not row.warm]


def left_out(runs: pd.DataFrame) -> str:
    """The pipelines on which stash does not train, with the reason, as text; empty if there are none."""
    texts = []
    for (optimizer, stages), (reached, whole) in untrained(runs, BY_OPTIMIZER).items():
        why = f"{reached:.1%} where sequential training reaches {whole:.1%}"
        texts.append(f"{optimizer} at {stages} stages ({'diverged in every run' if math.isnan(reached) else why})")
    return ", ".join(texts)


def against_stash(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a reconstruction equivalent to exact stashing?"""
    return _family(runs, [(reconstructions(runs), STASH)], settings)


def against_latest(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a reconstruction superior to the latest weights?"""
    return _family(runs, [(reconstructions(runs), LATEST)], settings)


def latest_against_stash(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The control: can the experiment tell a strategy without any history from exact stashing?"""
    return _family(runs, [([LATEST], STASH)], settings)


def applied_against_raw(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is averaging the applied updates superior to averaging lr x gradient? Rows name the former."""
    return _family(runs, [([row.plain], row.name) for row in _rows(runs) if row.raw and not row.warm], settings)


def warm_up_against_none(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Is a strategy superior after a warm-up with exact weights to itself without?"""
    return _family(runs, [([row.name], row.cold) for row in _rows(runs) if row.warm], settings)


def stash_against_sequential(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What the delay itself costs: exact stashing against training without a pipeline."""
    stash = runs[runs["strategy"] == STASH]
    base = runs[runs["strategy"] == SEQUENTIAL]
    copies = [base.assign(num_stages=stages) for stages in sorted(stash["num_stages"].unique())]
    return _family(pd.concat([stash, *copies]), [([STASH], SEQUENTIAL)], settings)


def _rows(runs: pd.DataFrame) -> list[Strategy]:
    return [find_strategy(name) for name in sorted(runs["strategy"].unique())]


def _family(runs: pd.DataFrame, compared: Iterable[tuple[list[str], str]], settings: Settings) -> pd.DataFrame:
    """Comparisons of strategies with a reference each, corrected together."""
    tables = [pairs(runs[runs["strategy"].isin([*names, other])], other, BY_OPTIMIZER) for names, other in compared]
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=[*BY_OPTIMIZER.cell, *COLUMNS, "outcome"])
    return compare(pd.concat(filled, ignore_index=True), BY_OPTIMIZER.cell, settings)


def trends(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """How the difference to stash changes per additional stage; 1 - level intervals over seeds, not corrected."""
    rows: list[dict[str, Any]] = []
    paired = pairs(runs, STASH, BY_OPTIMIZER)
    for (optimizer, strategy), group in paired.groupby(["optimizer", "strategy"], sort=False):
        if group["num_stages"].nunique() > 1:
            found = trend(group["num_stages"], group["difference"], group["seed"], level=settings.level)
            rows.append({"optimizer": optimizer, "strategy": strategy, **asdict(found)})
    return pd.DataFrame(rows)


def verdicts(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    """All of them, in the order of the page; pipelines on which stash itself does not train are left out."""
    reason = f"exact stashing itself does not train: {left_out(runs)}"
    rest = _found(informative(runs, runs, BY_OPTIMIZER), settings)
    answered = {verdict.question: verdict for verdict in rest if verdict.answer != Answer.NOT_TESTED}

    def final(verdict: Verdict) -> Verdict:
        if verdict.answer == Answer.NOT_TESTED:
            return verdict
        return answered.get(verdict.question, replace(verdict, answer=Answer.NO_ANSWER, caveat=reason))

    return [final(verdict) for verdict in _found(runs, settings)]


def _found(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    applied, warm = applied_against_raw(runs, settings), warm_up_against_none(runs, settings)
    return [
        _control(runs, settings),
        *_equivalence(runs, settings),
        *_superiority(runs, settings),
        _shown(applied, settings, "Is averaging the applied update better than averaging lr x gradient?"),
        _shown(warm, settings, "Does a warm-up with exact weights help?"),
    ]


def _control(runs: pd.DataFrame, settings: Settings) -> Verdict:
    table = latest_against_stash(runs, settings)
    lost = table["outcome"].map(OUTCOMES) == Answer.NO
    question = "Can these runs tell the latest weights from exact stashing?"
    if table.empty:
        return Verdict(question, Answer.NOT_TESTED, QUESTION, caveat="no such runs")
    where = f"{_cells(table[lost])}: latest loses; {_cells(table[~lost])}: not told apart."
    return Verdict(question, Answer.YES if lost.any() else Answer.NO, QUESTION, caveat=where)


def _equivalence(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    table, names = against_stash(runs, settings), candidates(runs)
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
        where = f"{_listed(parts)} p everywhere: {number(4)(p_everywhere[name])}"
        found.append(Verdict(question, answer, CLAIM, n, caveat=where))
    return found


def _superiority(runs: pd.DataFrame, settings: Settings) -> list[Verdict]:
    table, names = against_latest(runs, settings), candidates(runs)
    p_everywhere = everywhere(pairs(runs, LATEST, BY_OPTIMIZER), names, "superior", settings, BY_OPTIMIZER)
    found = []
    for name in names:
        question = f"{find_strategy(name).label} more accurate than the latest weights?"
        shown = _shown(table[table["strategy"] == name], settings, question)
        answer = Answer.YES if p_everywhere[name] < settings.level else shown.answer
        where = f"{shown.caveat} p everywhere: {number(4)(p_everywhere[name])}"
        found.append(replace(shown, answer=answer, caveat=where))
    return found


def _shown(table: pd.DataFrame, settings: Settings, question: str) -> Verdict:
    """Superiority everywhere, in part or nowhere; a reference that diverged alone counts, unless there is no other."""
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
    texts, several = [], rows["strategy"].nunique() > 1
    for (optimizer, strategy), group in rows.groupby(["optimizer", "strategy"], sort=False):
        stages = ", ".join(str(s) for s in sorted(group["num_stages"]))
        name = f"{find_strategy(str(strategy)).label}, " if several else ""
        texts.append(f"{name}{optimizer} at {stages} stages (n={int(group['n'].min())})")
    return "; ".join(texts) or "nowhere"
