"""Claims about accuracy: C6 (reconstruction loses none) and C8 (on three kinds of networks).

Both are judged only in the cells where these runs can tell a weight history from none
(:mod:`layerpipe2.lab.judging.history_costs`).
What the comparisons say stands in sentences, in which every number is computed.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.designs import LEARNT, own, pipeline_aware
from layerpipe2.lab.looks import ordered
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.strategies import find_strategy
from paper_figures.accuracy.assay import (
    CANNOT_TELL,
    NOT_NEEDED,
    UNTRAINED,
    Assay,
    in_place_of_a_verdict,
    seeds,
    share_text,
)
from paper_figures.page import report
from paper_figures.text import amount, listed, network_label, percent, plural, span
from paper_figures.verdicts import CLAIM, Answer, Verdict, both

KINDS = ("convolutional", "fully connected", "spiking")
"""The kinds of networks of claim C8."""


REASONS = {
    CANNOT_TELL: "can't tell: the control is not shown to fail",
    NOT_NEEDED: "no history is needed: the latest weights are shown to lose less than the margin",
    UNTRAINED: "hardly trained: exact stashing gains less than half of what sequential training does",
}
"""What stands in place of a verdict -> the same for a sentence."""


@report.claim("C6")
def reconstruction_keeps_accuracy(judged: Assay, settings: ComparisonSettings) -> Verdict:
    """Judge C6 in the cells where losing something was possible.

    Claim: A pipeline-aware moving average reconstructs the historical weights, without losing accuracy.

    Margin rule: In every cell (network at its number of stages), paired by seed, margin {margin}, level {level:g}.
    First the control: a cell can tell a weight history from none only if exact stashing is shown to be better than
    the latest weights by more than the margin (one-sided t test, Holm-corrected over the cells; a run that diverged
    scores what guessing does). In these cells alone a rule loses nothing if it is shown to be worse than exact
    stashing by less than the margin (one-sided t test, Holm-corrected over rules and cells), and loses if it is
    shown to be worse by more, or diverged where stashing did not.

    Share rule: In every cell (network at its number of stages), paired by seed, level {level:g}. A cell's margin is
    what exact stashing differs between the seeds of the search (standard deviation, at least {margin}), fixed
    before the runs. First the control: a cell can tell a weight history from none only if the latest weights are
    shown to lose more than the margin against exact stashing, or to diverge more often (one-sided t test, McNemar's
    exact test, each with half of the level, Holm-corrected over the cells). In these cells alone a rule loses
    nothing if two things are both shown: it wins back more than {share} of what the latest weights lose, and it is
    worse than exact stashing by less than the margin (one-sided t tests over the seeds in which both completed,
    Holm-corrected over rules and cells). It loses if one of the two is shown not to hold, or if it is shown to
    diverge more often than stashing.

    Test: Reproduced if one pipeline-aware rule loses nothing in all of these cells; not reproduced if every rule is
    shown to lose in one; "can't tell" if there is no such cell. Cells where stashing itself gains less than
    {learnt:g} % of what sequential training gains over guessing are left out.
    """
    answer, details = _answer(judged)
    demands: dict[str, Any] = {"level": settings.level, "learnt": 100 * LEARNT}
    demands |= {"margin": amount(settings.margin, settings.unit), "share": percent(settings.least_share or 0.0)}
    return Verdict(
        answer=answer,
        n=_seeds(judged),
        evidence=(
            *map(costs_sentence, judged.costs.to_dict("records")),
            *map(rule_sentence, judged.sensitive.rules.to_dict("records")),
            _summary(judged),
        ),
        caveat=_caveat(answer, judged),
        details=details,
        parts=("Margin rule" if settings.least_share is None else "Share rule", "Test"),
        demands=demands,
    )


@report.claim("C8")
def kinds_of_networks(judged: Assay) -> Verdict:
    """Judge C8 by the verdicts on C6 within each kind.

    Claim: All this applies to convolutional, fully connected and spiking networks.

    Test: The test of C6 within each kind of network. Reproduced if it is in each kind.
    """
    answers, words, evidence = [], [], []
    for kind in KINDS:
        networks = [name for name in judged.costs["network"].unique() if NETWORKS[name].kind == kind]
        mine = judged.within(network=networks)
        answer, details = _answer(mine)
        answers.append(answer)
        words.append(f"{kind}: {details or CLAIM.word(answer, _seeds(mine))}")
        labels = ", ".join(sorted(map(network_label, networks))) or "none trained"
        evidence.append(f"{kind.capitalize()} ({labels}): {words[-1].split(': ', 1)[1]}. {_summary(mine)}")
    answer = both(*answers)
    details = "; ".join(words) if Answer.UNDECIDED in answers else ""
    return Verdict(answer=answer, n=_seeds(judged), evidence=tuple(evidence), details=details)


def _answer(found: Assay) -> tuple[Answer, str]:
    """Whether some pipeline-aware rule keeps the accuracy, and the words where no cell has a verdict."""
    if found.costs.empty:
        return Answer.UNDECIDED, ""
    if not found.costs["sensitive"].any():
        words = {in_place_of_a_verdict(row) for row in found.costs.to_dict("records")}
        return Answer.UNDECIDED, REASONS[words.pop() if len(words) == 1 else CANNOT_TELL]
    answers = [found.answer(name) for name in found.aware]
    if Answer.YES in answers:
        return Answer.YES, ""
    return (Answer.NO if answers and set(answers) == {Answer.NO} else Answer.UNDECIDED), ""


def _seeds(found: Assay) -> int:
    """The fewest seeds of a cell."""
    return int(found.costs["seeds"].min()) if len(found.costs) else 0


def _summary(found: Assay) -> str:
    """Which rules keep the accuracy everywhere, and which are shown to lose."""
    sensitive = found.costs["sensitive"]
    if not sensitive.any():
        return f"In none of {plural(len(sensitive), 'cell')} a verdict is possible."
    answers = {name: found.answer(name) for name in ordered(found.rules["strategy"])}
    kept = [name for name, answer in answers.items() if answer == Answer.YES]
    lost = [name for name, answer in answers.items() if answer == Answer.NO]
    where = f"{sensitive.sum()} of {plural(len(sensitive), 'cell')} can tell a history from none"
    return f"{where}; no loss in any of these: {_names(kept)}; shown to lose in one: {_names(lost)}."


class _Words(NamedTuple):
    """What is said of strategies, of one and of several, by a rule of verdicts."""

    margin: str
    keep: tuple[str, str]
    lose: tuple[str, str]
    diverge: tuple[str, str]
    undecided: tuple[str, str]


def _words(settings: ComparisonSettings) -> _Words:
    if settings.least_share is None:
        margin = amount(settings.margin, settings.unit)
        return _Words(
            margin,
            (f"loses less than {margin}", f"lose less than {margin}"),
            ("is shown to lose more", "are shown to lose more"),
            ("diverged in a run where stashing did not",) * 2,
            (f"whether it loses more than {margin}", f"whether they lose more than {margin}"),
        )
    what = f"back over {percent(settings.least_share)} of that and {{}} less than the margin"
    return _Words(
        "the margin",
        (f"wins {what.format('loses')}", f"win {what.format('lose')}"),
        ("is shown not to in one of them", "are shown not to in one of them"),
        ("diverges more often than stashing", "diverge more often than stashing"),
        ("whether it does", "whether they do"),
    )


@report.value
def in_short(judged: Assay, settings: ComparisonSettings) -> str:
    """The answer in one or two sentences: what it is and where, and after a colon what it says of each strategy."""
    found = judged
    cells, words = found.costs["sensitive"], _words(settings)
    if not cells.any():
        return f"**These runs can't tell**: no history at all is not shown to lose more than {words.margin} anywhere."
    lost = found.sensitive.costs["inconsistency"]
    reach = f"{lost.min():.1f}" if len(lost) == 1 else f"{lost.min():.1f} to {lost.max():.1f}"
    where = f"in {cells.sum()} of {plural(len(cells), 'cell')}, where the latest weights cost {reach} {settings.unit}"
    names = [name for name in ordered(found.rules["strategy"]) if name != "latest"]
    kept = [name for name in names if found.answer(name) == Answer.YES]
    failed = [name for name in names if found.answer(name) == Answer.NO]
    outcomes = found.sensitive.rules.groupby("strategy")["outcome"].agg(set)
    worse = [name for name in failed if outcomes[name] & {"worse", "loses"}]
    lost_runs = [name for name in failed if name not in worse]
    said = ((kept, words.keep), (worse, words.lose), (lost_runs, words.diverge))
    texts = [f"{_and(some)} {forms[len(some) > 1]}{_won(found, some)}" for some, forms in said if some]
    rest = [name for name in names if name not in kept + failed]
    texts += [f"of {_and(rest)} it is not decided {words.undecided[len(rest) > 1]}"] if rest else []
    aware = set(pipeline_aware(names))
    answer = "yes" if aware & set(kept) else "no" if aware and aware <= set(failed) else "not decided"
    return f"**{answer.capitalize()}**, {where}: {'; '.join(texts)}."


def _won(found: Assay, strategies: Iterable[str]) -> str:
    """What they win back in the sensitive cells, in brackets, where that is known."""
    rules = found.sensitive.rules
    text = span(rules[rules["strategy"].isin(list(strategies))]["share"].dropna(), lambda share: f"{100 * share:.0f}")
    return f" ({text} %)" if text else ""


def _caveat(answer: Answer, found: Assay) -> str:
    """What a reader of the verdict alone must know: how many cells it rests on, and if a blind decay does as well."""
    if answer != Answer.YES:
        return ""
    cells = found.costs["sensitive"]
    rest = Counter(map(in_place_of_a_verdict, found.costs[~cells].to_dict("records")))
    words = {CANNOT_TELL: "{} can't tell", NOT_NEEDED: "in {} no history is needed", UNTRAINED: "{} hardly trained"}
    others = [words[word].format(count) for word, count in rest.items()]
    where = "; ".join([f"in {cells.sum()} of {plural(len(cells), 'cell')}", *others])
    blind = [name for name in ordered(found.rules["strategy"]) if name == "ema-0.9" and found.answer(name) == answer]
    said = [] if cells.all() else [where]
    return "; ".join([*said, *(f"{find_strategy(name).label}, blind to the delay, as well" for name in blind)])


def costs_sentence(row: Mapping[str, Any]) -> str:
    """What the delay and the inconsistency cost in a cell, and whether a verdict is possible there."""
    word = in_place_of_a_verdict(row)
    needs = _needs(row, "to tell it") if word == CANNOT_TELL else ""
    return f"{row['cell']} {both_costs(row)}: {REASONS.get(word, 'a verdict is possible')}{needs}."


def both_costs(row: Mapping[str, Any]) -> str:
    """``(n = 8 seeds): the delay costs .., doing without a history ..``, with the runs that diverged."""
    lost = "".join(
        f"; {name} diverged in {row[key]} of {row['seeds']} runs"
        for name, key in (("exact stashing", "diverged_stash"), ("the latest weights", "diverged_latest"))
        if row[key]
    )
    delay, history = cost(row, "delay"), cost(row, "inconsistency")
    return f"(n = {row['seeds']} seeds): the delay costs {delay}, doing without a history {history}{lost}"


def _needs(row: Mapping[str, Any], what: str) -> str:
    """How many seeds would decide at the difference that was found, where that is known."""
    needs = row.get("needs", math.inf)
    return f"; {what} would take {seeds(needs)}" if math.isfinite(needs) else ""


def rule_sentence(row: Mapping[str, Any]) -> str:
    """A strategy against stash in one cell."""
    lost = f"; diverged alone in {plural(row['lost'], 'run')}" if row["lost"] else ""
    word = row["outcome"] + (" (this project's own: no candidate)" if own([row["strategy"]]) else "")
    share = f", wins back {text}" if (text := share_text(row)) else ""
    change = f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" if row["n"] > 1 else "–"
    label = find_strategy(row["strategy"]).label
    needs = _needs(row, "to decide it") if row["outcome"] == "undecided" else ""
    return f"{row['cell']}, {label}: {change} {row['unit']} against stash{lost}{share}: {word}{needs}."


def cost(row: Mapping[str, Any], name: str) -> str:
    """``2.3 points [1.2, 3.4]``."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low != low else f" [{low:.2f}, {high:.2f}]"
    return "–" if row[name] != row[name] else f"{row[name]:.2f} {row['unit']}{interval}"


def _and(strategies: Iterable[str]) -> str:
    return listed(find_strategy(name).label for name in strategies)


def _names(strategies: Iterable[str]) -> str:
    return ", ".join(find_strategy(name).label for name in strategies) or "none"
