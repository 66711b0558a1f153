"""The page of the evidence: the answer of the confirmed cells, why, and the search that came before."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import with_scores
from layerpipe2.strategies import find_strategy
from paper_figures.claims import evidence as claims
from paper_figures.claims import why
from paper_figures.claims.assay import Assay
from paper_figures.claims.rule import RULE
from paper_figures.figures import assay as assay_figures
from paper_figures.figures.screening import screening
from paper_figures.figures.why import why as why_figure
from paper_figures.pages import Page
from paper_figures.records import evidence as records_of
from paper_figures.records.training import Records
from paper_figures.tables import assay as tables
from paper_figures.tables import why as why_tables
from paper_figures.tables.early import early
from paper_figures.tables.training import chosen_rates
from paper_figures.text import network_label, plural
from paper_figures.verdicts import CLAIM, Verdict

_CELL = ["optimizer", "momentum", "lr", "num_stages"]
"""What the cells of one coarse search differ in."""
_HALF = "fashion-mnist-14"
_OWN_RATES = "Each strategy has the learning rate that it chose."
_ONE_RATE = "One rate for all pipelines; sequential training keeps its own."


def page(found: Mapping[str, Records], results: Path) -> Page:
    """The page with its figures and tables.

    Raises:
        UserError: if nothing is confirmed yet.
    """
    confirmed, screens = records_of.confirmations(dict(found)), records_of.screens(dict(found))
    if not confirmed:
        raise UserError("nothing is confirmed yet; run: make paper EXPERIMENT=evidence-mlp")
    everything = claims.assays(confirmed)
    tuned, common = claims.at_own_rates(everything), everything.within(rate="common")
    level = ComparisonSettings.of(next(iter(confirmed.values())).experiment).level
    told, silent = claims.by_what_is_told(tuned)
    figures = {"costs": partial(assay_figures.costs, told, level, _OWN_RATES)}
    if len(silent.costs):
        figures["costs_silent"] = partial(assay_figures.costs, silent, level, _OWN_RATES)
    if len(common.costs):
        figures["costs_common"] = partial(assay_figures.costs, common, level, _ONE_RATE)
    if screens:
        figures["screening"] = partial(screening, screens)
    by_share = claims.by_share(confirmed)
    cells = why.of_cells(found, records_of.predictors(results))
    known = len(cells) > 0 and bool(cells["screened"].any())
    if known:
        figures["why"] = partial(why_figure, cells, RULE)
    content = {
        "answer": claims.answer(tuned),
        "silent": len(silent.costs) > 0,
        "tuned": _tables(tuned),
        "by_share": None if by_share is None else tables.verdicts(by_share),
        "common": _tables(common) if len(common.costs) else None,
        "given": "; ".join(_given_rates(confirmed)),
        "why": _why(cells) if known else None,
        "small": "; ".join(
            {network_label(n): None for r in confirmed.values() if r.dataset == _HALF for n in r.networks}
        ),
        "early": early(confirmed.values()),
        "rates": _rates(confirmed),
        "screens": list(screens),
        "plans": _plans(confirmed),
        "interval": f"{100 * (1 - 2 * level):g}",
        **_numbers(tuned, confirmed, screens, results),
    }
    exact = {"costs": everything.costs, "rules": everything.rules} | ({"predictors": cells} if known else {})
    return Page("evidence", "evidence.md", content, _verdicts(tuned), figures, exact)


def _tables(found: Assay) -> dict[str, pd.DataFrame]:
    return {"verdicts": tables.verdicts(found), "costs": tables.costs(found), "rules": tables.rules(found)}


def _why(cells: pd.DataFrame) -> dict[str, Any]:
    """What the section on predictors tells."""
    restored, needing, latest, average = why.directions(cells)
    searched = cells["screened"].astype(bool)
    screened, confirmed = cells[searched], cells[~searched]
    fitted, anew = why.says(screened, RULE), why.says_of_others(screened)
    said = why.says(confirmed, RULE)
    return {
        "table": why_tables.predictors(why.ranking(screened)),
        "rule": RULE,
        "fitted": _of(why.right(screened, fitted)),
        "anew": _of(why.right(screened, anew)),
        "always": max(needing, len(screened) - needing),
        "wrong": _of(why.dropped(screened, fitted)),
        "wrong_anew": _of(why.dropped(screened, anew)),
        "tried": _tried(confirmed, said),
        "same": said.iloc[0] if said.nunique() == 1 else None,
        "screened": len(screened),
        "needing": needing,
        "restored": restored,
        "latest": f"{latest:.3f}",
        "average": f"{average:.3f}",
    }


def _of(counts: tuple[int, int]) -> str:
    return "{} of {}".format(*counts)


def _tried(cells: pd.DataFrame, said: pd.Series) -> str:
    """How often the rule is right in the confirmed cells, in words; empty if there are none."""
    words = {"common": "with one learning rate for all", "tuned": "with each strategy's own rate"}
    parts = {text: cells["rate"] == rate for rate, text in words.items()}
    return " and in ".join(f"{_of(why.right(cells[m], said[m]))} {text}" for text, m in parts.items() if m.any())


def _verdicts(found: Assay) -> list[Verdict]:
    """A verdict per strategy, over all cells where it can be told."""
    answers = {name: found.answer(name) for name in dict.fromkeys(found.rules["strategy"])}
    seeds = found.rules.groupby("strategy")["n"].min()
    return [
        Verdict(
            f"{find_strategy(name).label}: no loss in any cell where it can be told?", answer, CLAIM, int(seeds[name])
        )
        for name, answer in answers.items()
    ]


def _plans(found: Mapping[str, Records]) -> list[dict[str, Any]]:
    """What each experiment was to do, and how much of that is done."""
    keys = ("planned", "finished")
    return [
        {"name": name, "missing": records.experiment["planned"] - records.experiment["finished"]}
        | {key: records.experiment[key] for key in keys}
        for name, records in found.items()
    ]


def _rates(found: Mapping[str, Records]) -> dict[str, pd.DataFrame]:
    """Experiment -> the rate that every strategy chose."""
    tuned = {name: records for name, records in found.items() if records.tuning is not None}
    return {name: chosen_rates(records.tuning, records.networks) for name, records in tuned.items()}


def _given_rates(found: Mapping[str, Records]) -> Iterator[str]:
    """``VGG has 0.4``: the networks whose one rate was given, so that stash has runs of its own with it."""
    for records in found.values():
        common = records.all_runs.query("rate == 'common' and strategy == 'stash'")
        yield from (f"{network_label(r.network)} has {r.lr:g}" for r in common.drop_duplicates("network").itertuples())


def _diverged(records: Records) -> int:
    settings = ComparisonSettings.of(records.experiment)
    return int((with_scores(records.all_runs, settings)["status"] == "diverged").sum())


def _guesses(found: Iterable[Records]) -> Iterator[str]:
    """The losses of guessing, of experiments that judge losses."""
    for records in found:
        yield from (f"{nats:.2f}" for nats in ComparisonSettings.of(records.experiment).guess.values())


def _numbers(
    tuned: Assay, confirmed: Mapping[str, Records], screens: Mapping[str, Records], results: Path
) -> dict[str, Any]:
    answered, total = claims.decided(tuned)
    trials = [len(records.tuning) for records in confirmed.values() if records.tuning is not None]
    pipelines = [r.runs[r.runs["num_stages"] > 1] for r in screens.values()]
    everything = (*confirmed.values(), *screens.values())
    return {
        "answered": answered,
        "total": total,
        "cells": plural(total, "cell"),
        "names": list(confirmed),
        "runs": sum(len(records.all_runs) for records in confirmed.values()),
        "trials": sum(trials),
        "screened": sum(runs.groupby(_CELL, dropna=False).ngroups for runs in pipelines),
        "screen_runs": sum(len(records.all_runs) for records in screens.values()),
        "hours": f"{records_of.hours(results, [*confirmed, *screens]):.1f}",
        "diverged": sum(_diverged(records) for records in everything),
        "guess": ", ".join(dict.fromkeys(_guesses(everything))),
        "decays": ", ".join(f"{d:.3f} at {n}" for n, d in claims.decays_above_limit(confirmed).items()),
    }
