"""The page of the evidence: larger experiments, and the coarse searches that chose their cells.

Can the weight stash be dropped, and what for? Searches are called ``screen-*``; the others confirm what they found.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import with_scores
from layerpipe2.strategies import DECAY_RULES, find_strategy
from paper_figures import records as training
from paper_figures.accuracy.assay import Assay, costs_table, long_name, rules_table, verdict_table
from paper_figures.accuracy.history_costs import history_costs
from paper_figures.accuracy.tuning import chosen_rates
from paper_figures.field.page import FIELD
from paper_figures.page import Page
from paper_figures.records import CONFIGURATION, Records
from paper_figures.text import listed, network_label, plural, span
from paper_figures.verdicts import CLAIM, Answer, Verdict

evidence = Page(
    "evidence",
    *("original", "cells", "strategies", "common", "longer"),
    *("why", "recalled", "start", "plateau", "screening", "method"),
)
SCREEN = "screen-"
"""What the names of the coarse searches begin with."""
WHY = "why-"
"""What the names of experiments begin with that look for causes: their strategies are none that anybody would use."""
LONG = "-long"
"""What the names of experiments end with that train the cells of another one for longer."""


COSTS = {"delay": "the delay costs", "inconsistency": "no history costs"}
"""Costs of a cell in words."""


def cost_ends(row: Mapping[str, Any], cost: str) -> tuple[float, float, float]:
    """A cost of a cell, and the ends of its interval."""
    return row[cost], row[f"{cost}_low"], row[f"{cost}_high"]


FEW = 3
"""Cells that an answer without reserve needs."""


_SEARCHED = ["optimizer", "momentum", "lr", "num_stages"]
"""What the cells of one coarse search differ in."""
_HALF = "fashion-mnist-14"


@evidence.records
def load(results: Path) -> dict[str, Any]:
    """Read the records of every published experiment that is collected, by name; not the field's, nor its rows.

    Raises:
        UserError: if a table is broken.
    """
    folder = results / "evidence"
    found = {
        path.parent.name: training.load(path)
        for path in sorted(folder.glob("*/tables"))
        if not path.parent.name.startswith(FIELD)
    }
    shown = {name: one for name, one in found.items() if one.experiment["published"]}
    causes = {name: shown.pop(name) for name in list(shown) if name.startswith(WHY)}
    histories = {name: one.of_histories() for name, one in shown.items()}
    return {"found": histories, "causes": causes, "folder": folder}


@evidence.value
def screens(found: Mapping[str, Records]) -> dict[str, Records]:
    """The coarse searches."""
    return {name: one for name, one in found.items() if name.startswith(SCREEN)}


@evidence.value
def confirmed(found: Mapping[str, Records]) -> dict[str, Records]:
    """The other experiments, but for the longer ones, whose cells are those of another.

    Raises:
        UserError: if there are none yet.
    """
    others = {name: one for name, one in found.items() if not name.startswith(SCREEN) and not name.endswith(LONG)}
    if not others:
        raise UserError("nothing is confirmed yet; run: make paper EXPERIMENT=evidence-mlp")
    return others


@evidence.value
def assays(found: Mapping[str, Records]) -> dict[str, Assay]:
    """The cells of each experiment, searches too."""
    return {name: assay(one) for name, one in found.items()}


@evidence.value
def judged(confirmed: Mapping[str, Records], assays: Mapping[str, Assay]) -> Assay:
    """The cells of all experiments that confirm."""
    return Assay.joined(assays[name] for name in confirmed)


def assay(records: Records) -> Assay:
    """The cells of one experiment, by its own demands."""
    return Assay.of(records.all_runs, ComparisonSettings.of(records.experiment), records.examples, long_name)


@evidence.value
def tuned(judged: Assay, confirmed: Mapping[str, Records]) -> Assay:
    """The cells in which strategies don't share one learning rate.

    Raises:
        UserError: if there are none yet.
    """
    found = judged.without(rate="common")
    if not len(found.costs):
        names = listed(confirmed)
        what = f"{names}: no cell has two seeds of exact stashing and of the latest weights yet"
        raise UserError(f"{what}; go on: python -m experiments.run {next(iter(confirmed))}")
    return found


@evidence.value
def common(judged: Assay) -> Assay:
    """The cells in which they do."""
    return judged.within(rate="common")


@evidence.value
def told(tuned: Assay) -> Assay:
    """The cells in which a history is needed; all, if there are none."""
    return tuned.sensitive if len(tuned.sensitive.costs) else tuned


@evidence.value
def level(confirmed: Mapping[str, Records]) -> float:
    """The significance level of the tests."""
    return ComparisonSettings.of(next(iter(confirmed.values())).experiment).level


_OWN_RATES = "Each strategy has the learning rate that it chose."
_ONE_RATE = "One rate for all pipelines; sequential training keeps its own."
evidence.figure("costs")(lambda told, level: history_costs(told, level, _OWN_RATES))
evidence.figure("costs_common", data="costs", when=lambda common: len(common.costs))(
    lambda common, level: history_costs(common, level, _ONE_RATE)
)
evidence.table("costs", shown=None)(lambda judged: judged.costs)
evidence.table("rules", shown=None)(lambda judged: judged.rules)


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


@evidence.value
def answer(tuned: Assay) -> str:
    """The answer in one or two sentences, with its conditions."""
    sensitive = tuned.sensitive
    total, told = plural(len(tuned.costs), "cell"), len(sensitive.costs)
    needless = int(tuned.costs["needless"].sum())
    if not told and needless:
        return f"**No history is needed** in {needless} of {total}: the latest weights lose less than the margin there."
    if not told:
        return f"**These runs can't tell**: in none of {total} do the weights of the backward pass matter enough."
    if not sensitive.aware:
        why = "and no average that follows the delay was run."
        return f"**Not decided**: in {told} of {total} the weights matter, {why}"
    kept, lost = _told(sensitive)
    texts = [_head(len(kept), len(lost), told, len(tuned.costs))]
    if 0 < len(kept) < told:
        mine = sensitive.rules["strategy"].isin(sensitive.aware) & ~sensitive.rules["cell"].isin(kept)
        back = span(sensitive.rules[mine]["share"], lambda value: f"{100 * value:.0f}")
        others = "others" if told - len(kept) > 1 else "other"
        names = listed([find_strategy(name).label for name in sensitive.aware])
        texts.append(f"In the {others} these averages ({names}) win back {back} % of what no history costs.")
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


@evidence.value
def strategies(tuned: Assay) -> list[str]:
    """The strategies beside stash."""
    return list(dict.fromkeys(tuned.rules["strategy"]))


@evidence.claim(each="name in strategies")
def keeps(name: str, tuned: Assay, told: Assay) -> Verdict:
    """Judge a strategy over all cells where it can be told."""
    mine = told if name in set(told.rules["strategy"]) else tuned
    seeds = mine.rules.loc[mine.rules["strategy"] == name, "n"].min()
    question = f"{find_strategy(name).label}: no loss in any cell where it can be told?"
    return Verdict(question, tuned.answer(name), CLAIM, int(seeds))


@evidence.value
def shown(tuned: Assay, common: Assay) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of both kinds of cells, for readers."""
    return {
        kind: {"verdicts": verdict_table(found), "costs": costs_table(found), "rules": rules_table(found)}
        for kind, found in (("tuned", tuned), ("common", common))
        if len(found.costs)
    }


def named(found: Mapping[str, Answer | None], answer: Answer) -> list[str]:
    """The strategies with an answer."""
    return [find_strategy(name).label for name, its in found.items() if its == answer]


def shown_losses(found: Assay) -> str:
    """Which strategies are shown to lose nothing in any cell that tells, and which to lose in one."""
    answers = {name: found.answer(name) for name in dict.fromkeys(found.rules["strategy"])}
    kept, lost = (listed(named(answers, one) or ["none"]) for one in (Answer.YES, Answer.NO))
    cells = plural(len(found.sensitive.costs), "cell")
    less = f"shown to lose less than the margin in all of {cells} that tell it: {kept}"
    return f"{less}; shown to lose more in at least one: {lost}"


@evidence.value
def said(tuned: Assay, common: Assay) -> dict[str, str]:
    """:func:`shown_losses` of both kinds of cells."""
    return {"tuned": shown_losses(tuned), "common": shown_losses(common)}


@evidence.value
def plans(confirmed: Mapping[str, Records]) -> list[dict[str, Any]]:
    """What each experiment was to do, and how much of that is done."""
    return [{"name": name, **records.experiment} for name, records in confirmed.items()]


@evidence.value
def rates(confirmed: Mapping[str, Records]) -> pd.DataFrame:
    """A row per experiment and network: the rate that every strategy chose."""
    known = {name: (one.tuning, one.networks) for name, one in confirmed.items() if one.tuning is not None}
    tables = [chosen_rates(*found).set_index("strategy").T.assign(experiment=name) for name, found in known.items()]
    table = pd.concat(tables or [pd.DataFrame(columns=["experiment"])]).rename_axis("network").reset_index()
    return table.set_index("experiment").reset_index().fillna("–")


@evidence.value
def numbers(
    tuned: Assay,
    cell_table: pd.DataFrame,
    confirmed: Mapping[str, Records],
    screens: Mapping[str, Records],
    folder: Path,
    level: float,
) -> dict[str, Any]:
    """Counts, and lists in words."""
    every = [*confirmed.values(), *screens.values()]
    demands = [ComparisonSettings.of(records.experiment) for records in every]
    scores = [with_scores(one.all_runs, settings) for one, settings in zip(every, demands, strict=True)]
    pipelines = [one.runs[one.runs["num_stages"] > 1] for one in screens.values()]
    times = [pd.read_csv(folder / name / "tables" / "times.csv") for name in (*confirmed, *screens)]
    given = [one.all_runs.query("rate == 'common' and strategy == 'stash'") for one in confirmed.values()]
    small = [name for one in confirmed.values() if one.dataset == _HALF for name in one.networks]
    answered, total = decided(tuned)
    return {
        "kinds": cell_table["a history is"].value_counts(),
        "answered": answered,
        "total": total,
        "cells": plural(total, "cell"),
        "runs": sum(len(records.all_runs) for records in confirmed.values()),
        "trials": sum(len(records.tuning) for records in confirmed.values() if records.tuning is not None),
        "screened": sum(runs.groupby(_SEARCHED, dropna=False).ngroups for runs in pipelines),
        "screen_runs": sum(len(records.all_runs) for records in screens.values()),
        "hours": f"{sum(float(table['wall_time_s'].sum()) for table in times) / 3600:.1f}",
        "diverged": sum(int((table["status"] == "diverged").sum()) for table in scores),
        "guess": ", ".join(dict.fromkeys(f"{nats:.2f}" for one in demands for nats in one.guess.values())),
        "decays": ", ".join(f"{d:.3f} at {n}" for n, d in decays_above_limit(confirmed).items()),
        "given": "; ".join(
            f"{network_label(row.network)} has {row.lr:g}"
            for runs in given
            for row in runs.drop_duplicates("network").itertuples()
        ),
        "small": "; ".join(dict.fromkeys(map(network_label, small))),
        "interval": f"{100 * (1 - 2 * level):g}",
    }
