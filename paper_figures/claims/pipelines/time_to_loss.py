"""What the trainings to a loss say: who reaches it first; every number is computed from the records."""

from typing import Any

import numpy as np
import pandas as pd

from paper_figures import variant_style
from paper_figures.records.pipelines import label
from paper_figures.records.regimes import ONE_HOST
from paper_figures.records.time_to_loss import TimeToLoss
from paper_figures.text import listed, percent, plural, span
from paper_figures.verdicts import FASTER, Answer, Verdict

_WORDS = {Answer.YES: "faster", Answer.NO: "slower", Answer.UNDECIDED: "no difference shown"}
TITLE = "Seconds to a target loss, asynchronous pipelines against one process, threads, DDP, 1F1B and zero-bubble"


def time_to_loss(found: TimeToLoss) -> Verdict:
    """Whether the best asynchronous pipeline reaches the targets before the best of all other choices."""
    leads = found.leads()
    leads["answer"] = [_answer(row.low, row.high) for row in leads.itertuples()]
    places = [_counted(place, leads[leads["place"] == place]) for place in found.places]
    answers = set(leads["answer"])
    whole = answers.pop() if len(answers) == 1 else Answer.IN_PART if Answer.YES in answers else Answer.NO
    design = found.provenance["design"]
    evidence = (
        f"Held-out loss of {len(found.networks)} networks; learning rates tuned with "
        f"{plural(len(design['tuning_seeds']), 'seed')} of their own, from the same rates to choose from; "
        f"n={len(design['seeds'])} other seeds. Speed of the better asynchronous pipeline over the "
        f"best other choice, with its 95 % interval over seeds and rounds: {'; '.join(_lines(leads))}. "
        f"{_off(found.checks)}"
    )
    return Verdict(TITLE, whole, FASTER, evidence=(evidence,), details="; ".join(places))


def headline(found: TimeToLoss) -> str:
    """The page's first line: where an asynchronous pipeline is first, and where it loses."""
    leads, sentences = found.leads(), []
    for place in found.places:
        mine = leads[leads["place"] == place]
        words = [f"{label(row.network)} {_first(row)}{_unsure(row, found.checks)}" for row in mine.itertuples()]
        sentences.append(f"{_where(place)} {_won([_answer(row.low, row.high) for row in mine.itertuples()])}")
        sentences.append(f"Its time, as a multiple of the best other choice's, by medians: {'; '.join(words)}")
    return f"Which training reaches a target loss first? {'. '.join(sentences)}."


def _won(answers: list[Answer]) -> str:
    """For how many networks an asynchronous pipeline is first, and for how many it is not."""
    words = _WORDS | {Answer.UNDECIDED: "not shown to differ"}
    counts = [f"{word} for {answers.count(answer)}" for answer, word in words.items() if answer in answers]
    return f"an asynchronous pipeline is, of {plural(len(answers), 'network')}, {listed(counts)}"


def _first(row: Any) -> str:
    """How long the better asynchronous pipeline takes beside the best other choice, which is named."""
    if not row.fastest:
        return "(none reached it)"
    times = f"{_ratio(1 / row.ratio)} (95 % interval {_ratio(1 / row.high)} to {_ratio(1 / row.low)})"
    return f"{times}, against {variant_style.label(row.peer)}"


def _unsure(row: Any, checks: pd.DataFrame) -> str:
    """That the best other choice missed the target when it was really trained."""
    missed = _missed(checks)
    there = row.fastest and row.place == ONE_HOST
    return " (which missed the target when really trained)" if there and row.peer in missed.get(row.network, ()) else ""


def _missed(checks: pd.DataFrame) -> dict[str, list[str]]:
    """Network -> choices whose one real training ended above the target."""
    above = checks[checks["loss"] > checks["target"]]
    return {str(network): list(mine["variant"]) for network, mine in above.groupby("network", sort=False)}


def _ratio(value: float) -> str:
    return "infinitely many" if np.isinf(value) else f"{value:.2f}"


def _where(place: str) -> str:
    return "On one host" if "host" in place else f"On two hosts with {place}"


def _counted(place: str, leads: pd.DataFrame) -> str:
    counts = leads["answer"].value_counts()
    return f"{place}: {listed(f'{_WORDS[answer]} {counts[answer]}' for answer in _WORDS if answer in counts)}"


def _answer(low: float, high: float) -> Answer:
    return Answer.YES if low > 1 else Answer.NO if high < 1 else Answer.UNDECIDED


def _times(row: Any) -> str:
    if not row.fastest:
        return "(neither reached the target)"
    if row.ratio in (0, np.inf):
        return f"(only {'the other one' if row.ratio == 0 else 'it'} reached the target in most trainings)"
    return f"{row.ratio:.2f}×, {row.low:.2f}–{row.high:.2f},"


def _lines(leads: pd.DataFrame) -> list[str]:
    return [
        f"{label(row.network)}, {row.place}: {variant_style.label(row.ours)} {_times(row)} over "
        f"{variant_style.label(row.peer)}"
        for row in leads.itertuples()
    ]


def _off(checks: pd.DataFrame) -> str:
    """How far the products are from trainings that were really made."""
    off = checks["seconds"] / checks["product"] - 1
    away = np.abs(checks["loss"] - checks["simulated_loss"])
    missed = _missed(checks)
    which = [f"{label(network)}: {'; '.join(map(variant_style.label, names))}" for network, names in missed.items()]
    count = sum(map(len, missed.values()))
    return (
        "Seconds are updates times seconds per update; with two hosts nothing else was measured. On one host every "
        "choice was really trained once, for the updates that its simulation needed: of "
        f"{plural(len(checks), 'training')}, measured over computed seconds, less one, is "
        f"{percent(off.median(), '+.0f')} in the median ({span(off, lambda share: percent(share, '+.0f'))}), which can "
        f"be more than a lead above; losses differ from the simulated ones by {away.median():.2g} in the median and "
        f"{away.max():.2g} at most, because other ways to add up round otherwise, and {count} missed the target by it"
        f"{f' ({listed(which)})' if which else ''}."
    )
