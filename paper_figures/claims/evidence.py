"""The answer of all confirmed cells together: can the weight stash be dropped, and what for?"""

import math
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import CELL
from layerpipe2.strategies import DECAY_RULES
from paper_figures.claims.assay import Assay, long_name
from paper_figures.records.training import CONFIGURATION, Records
from paper_figures.text import plural, span
from paper_figures.verdicts import Answer

LEAST_SHARE = 0.75
"""What a strategy must win back by the rule of the default study."""
FEW = 3
"""Cells that an answer without reserve needs."""


def assays(found: Mapping[str, Records]) -> Assay:
    """The cells of all experiments."""
    return Assay.joined(map(assay, found.values()))


def assay(records: Records) -> Assay:
    """The cells of one experiment, by its own demands."""
    return Assay.of(records.all_runs, ComparisonSettings.of(records.experiment), records.examples, long_name)


def at_own_rates(found: Assay) -> Assay:
    """The cells in which strategies don't share one learning rate."""
    return found.without(rate="common")


def by_what_is_told(found: Assay) -> tuple[Assay, Assay]:
    """The cells that tell whether a history is needed, and the others; all are among the first if none tells it."""
    costs = found.costs
    told = costs["sensitive"] | costs["needless"]
    if not told.any():
        told = ~told
    first, second = (found.within(cell=list(costs.loc[mine, "cell"])) for mine in (told, ~told))
    return first, second


def by_share(found: Mapping[str, Records]) -> Assay | None:
    """The same cells by the rule of the default study, which was written after these runs; None if none has accuracies.

    Each keeps the margin that its experiment has declared: their searches have one seed, which tells no spread.
    """
    judged = [records for records in found.values() if ComparisonSettings.of(records.experiment).unit == "points"]
    if not judged:
        return None
    settings = replace(ComparisonSettings.of(judged[0].experiment), least_share=LEAST_SHARE, image_guard=False)
    runs = pd.concat([records.runs for records in judged], ignore_index=True)
    return Assay.of(runs.drop_duplicates([*CELL, "strategy", "seed"]), settings, name=long_name)


def decided(found: Assay) -> tuple[int, int]:
    """Cells whose question is answered: no history is needed, or some pipeline-aware rule loses nothing, or all lose.

    Returns:
        Their number, and that of all cells.
    """
    return int(found.costs["needless"].sum()) + sum(map(len, _told(found.sensitive))), len(found.costs)


def decays_above_limit(found: Mapping[str, Records]) -> dict[int, float]:
    """Delay -> by how much the decay of `ema-lsq` exceeds ``1 - 2 ln 2 / n``, of the stages that ran with `ema-lsq`.

    The committed records of the evidence were made with that limit for long delays.
    """
    delays: set[int] = set()
    for records in found.values():
        runs = records.all_runs.query("strategy == 'ema-lsq'")
        delays |= set(runs[CONFIGURATION].drop_duplicates().merge(records.stages, on=CONFIGURATION)["delay"])
    return {n: DECAY_RULES["lsq"](n) - (1 - 2 * math.log(2) / n) for n in sorted(delays) if n > 1}


def answer(found: Assay) -> str:
    """The answer in one or two sentences, with its conditions."""
    sensitive = found.sensitive
    total, told = plural(len(found.costs), "cell"), len(sensitive.costs)
    needless = int(found.costs["needless"].sum())
    if not told and needless:
        return f"**No history is needed** in {needless} of {total}: the latest weights lose less than the margin there."
    if not told:
        return f"**These runs can't tell**: in none of {total} do the weights of the backward pass matter enough."
    if not sensitive.aware:
        why = "and no average that follows the delay was run."
        return f"**Not decided**: in {told} of {total} the weights matter, {why}"
    kept, lost = _told(sensitive)
    texts = [_head(len(kept), len(lost), told, len(found.costs))]
    if 0 < len(kept) < told:
        mine = sensitive.rules["strategy"].isin(sensitive.aware) & ~sensitive.rules["cell"].isin(kept)
        back = span(sensitive.rules[mine]["share"], lambda value: f"{100 * value:.0f}")
        others = "others" if told - len(kept) > 1 else "other"
        texts.append(f"In the {others} they win back {back} % of what no history costs.")
    if needless:
        where = f"In {plural(needless, 'cell')} no history is needed"
        texts.append(f"{where}: with a rate of their own, the latest weights lose less than the margin.")
    return " ".join(texts)


def _told(sensitive: Assay) -> tuple[list[str], list[str]]:
    """The cells in which some average that follows the delay is shown to lose nothing, and those in which all lose."""
    kept, lost = [], []
    for cell in sensitive.costs["cell"]:
        answers = [sensitive.within(cell=cell).answer(name) for name in sensitive.aware]
        kept += [cell] if Answer.YES in answers else []
        lost += [cell] if set(answers) == {Answer.NO} else []
    return kept, lost


def _head(kept: int, lost: int, told: int, total: int) -> str:
    """The answer of the cells that tell it: in how many some average is shown to keep the accuracy."""
    every = f"in all {told} cells" if told > 1 else "in the one cell"
    where = f"in which the weights of the backward pass matter (of {total} tried),"
    loses = "average that follows the delay is shown to lose"
    if kept == told:
        return f"**{'Yes' if told >= FEW else 'So far yes'}: {every}** {where} an {loses} less than the margin."
    if lost == told:
        return f"**No: {every}** {where} every {loses} more than the margin."
    if kept:
        return f"**In {kept} of {told} cells** {where} an {loses} less than the margin."
    return f"**Undecided: {every}** {where} no {loses} less than the margin."
