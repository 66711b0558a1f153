"""The answer of all confirmed cells together: can the weight stash be dropped, and what for?"""

from collections.abc import Mapping

import pandas as pd

from layerpipe2.history import find_strategy
from paper_figures.claims.assay import Assay, long_name
from paper_figures.comparisons import Settings
from paper_figures.designs import pipeline_aware
from paper_figures.records.training import Records
from paper_figures.style import ordered
from paper_figures.text import plural, span
from paper_figures.verdicts import OUTCOMES, Answer

FEW = 3
"""Cells that an answer without reserve needs."""
WORDS = {Answer.YES: "no loss", Answer.NO: "loses", Answer.UNDECIDED: "undecided"}


def assays(found: Mapping[str, Records]) -> Assay:
    """The cells of all experiments."""
    return Assay.joined(map(assay, found.values()))


def assay(records: Records) -> Assay:
    """The cells of one experiment, by its own demands."""
    return Assay.of(records.all_runs, Settings.from_report(records.experiment["report"]), records.examples, long_name)


def at_own_rates(found: Assay) -> Assay:
    """The cells in which strategies don't share one learning rate."""
    return found.without(rate="common")


def counts(found: Assay) -> pd.DataFrame:
    """For every strategy: in how many of the cells where it can be told it loses nothing, loses, or is undecided."""
    rows = found.sensitive.rules.assign(answer=lambda t: t["outcome"].map(OUTCOMES).fillna(Answer.UNDECIDED))
    names = ordered(rows["strategy"])
    table = {
        word: [int(((rows["strategy"] == n) & (rows["answer"] == a)).sum()) for n in names] for a, word in WORDS.items()
    }
    return pd.DataFrame({"strategy": names} | table)


def decided(found: Assay) -> tuple[int, int]:
    """Cells whose question is answered: no history is needed, or some pipeline-aware rule loses nothing, or all lose.

    Returns:
        Their number, and that of all cells.
    """
    answered = int(found.costs["needless"].sum())
    for cell in found.sensitive.costs["cell"]:
        mine = found.within(cell=cell)
        answers = [mine.answer(name) for name in pipeline_aware(dict.fromkeys(mine.rules["strategy"]))]
        answered += Answer.YES in answers or set(answers) == {Answer.NO}
    return answered, len(found.costs)


def answer(found: Assay) -> str:
    """The answer in one sentence, with its conditions."""
    sensitive = found.sensitive
    total, told = plural(len(found.costs), "cell"), len(sensitive.costs)
    needless = int(found.costs["needless"].sum())
    rest = f" In {needless} no history is needed: the latest weights lose less than the margin." if needless else ""
    if not told and needless:
        return f"**No history is needed** in {needless} of {total}: the latest weights lose less than the margin there."
    if not told:
        return f"**These runs can't tell**: in none of {total} do the weights of the backward pass matter enough."
    table = counts(found).set_index("strategy")
    rules = table.loc[pipeline_aware(table.index)]
    if rules.empty:
        why = "and no average that follows the delay was run."
        return f"**Not decided**: in {told} of {total} the weights matter, {why}{rest}"
    won = sensitive.rules.groupby("strategy")["share"].mean()
    order = [WORDS[Answer.NO], WORDS[Answer.YES], "share"]
    best = rules.assign(share=won.reindex(rules.index)).sort_values(order, ascending=[True, False, False]).iloc[0]
    kept, lost = int(best[WORDS[Answer.YES]]), int(best[WORDS[Answer.NO]])
    share = sensitive.rules[sensitive.rules["strategy"] == best.name]["share"]
    back = span(share, lambda value: f"{100 * value:.0f}")
    return (
        f"**{_word(rules, kept, told)}**: in {told} of {total} the weights of the backward pass matter; there the "
        f"average '{find_strategy(str(best.name)).label}' wins back {back} % of what doing without a history costs, "
        f"and loses less than the margin in {kept}{f', more in {lost}' if lost else ''}.{rest}"
    )


def _word(rules: pd.DataFrame, kept: int, told: int) -> str:
    if kept == told:
        return "Yes" if told >= FEW else "So far yes"
    if (rules[WORDS[Answer.NO]] > 0).all():
        return "No"
    return "Mostly" if 2 * kept > told else "Undecided"
