"""The same cells trained for longer, until stashing has moved as far as sequential training does in the short runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.judging.designs import LATEST, SEQUENTIAL, STASH
from layerpipe2.lab.looks import look
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.accuracy.assay import Assay, interval, rules_table, score
from paper_figures.accuracy.evidence import COSTS, LONG, cost_ends, evidence
from paper_figures.records import Records
from paper_figures.text import listed, percent, span
from paper_figures.verdicts import OUTCOMES, Answer

_PART = 3
"""A cost is asked to fall to one in so many."""


@evidence.value
def longer(found: Mapping[str, Records], assays: Mapping[str, Assay]) -> dict[str, Any] | None:
    """A short and a long row for each pair, tables of them and of all strategies, what costs fall to; None if none."""
    pairs = {name.removesuffix(LONG): name for name in found if name.endswith(LONG)}
    if not pairs:
        return None
    both = [(_row(found[a], assays[a]), _row(found[b], assays[b])) for a, b in pairs.items()]
    rows = [row for pair in both for row in pair]
    table = pd.DataFrame([_readable(row) for row in rows], dtype=object)
    said = [fall(*pair, cost) for pair in both for cost in COSTS]
    long = [assays[name].without(rate="common") for name in pairs.values()]
    averages = pd.concat(map(rules_table, long), ignore_index=True)
    answer = f"{_answer(both)}; {_lost(long)}"
    return {"rows": rows, "table": table, "averages": averages, "said": said, "answer": answer}


def _answer(pairs: Sequence[tuple[Any, Any]]) -> str:
    """Which costs are shown to fall to a third, which not to, and which neither."""
    found: dict[Answer, list[str]] = {answer: [] for answer in _WORDS}
    for pair in pairs:
        for cost, title in COSTS.items():
            of = f"{_share(*pair, cost)}{_failed(pair[1], cost)}"
            found[fallen(*pair, cost)].append(f"what {title} in {pair[0]['cell']} ({of})")
    yes, no, unsure = (listed(costs or ["nothing"]) for costs in found.values())
    return f"Shown to fall below a third at matched length: {yes}; shown not to: {no}; neither: {unsure}"


def _lost(long: Sequence[Assay]) -> str:
    """The strategies with a history that are shown to lose in the longer runs."""
    rows = [row for one in long for row in one.sensitive.rules.to_dict("records") if row["strategy"] != LATEST]
    lost = [row for row in rows if OUTCOMES.get(row["outcome"]) == Answer.NO]
    named = [
        f"{find_strategy(row['strategy']).label} in {row['cell']} ({row['mean']:+.2f} {row['unit']})" for row in lost
    ]
    return f"averages shown to lose more than the margin against exact stashing there: {listed(named or ['none'])}"


def _row(records: Records, assay: Assay) -> dict[str, Any]:
    """The one cell of an experiment in which each strategy has its own rate, and how far its runs move."""
    (cell,) = assay.without(rate="common").costs.to_dict("records")
    runs = records.runs[records.runs["rate"] != "common"]
    epochs = int(records.epochs["epoch"].max()) + 1
    rates = {name: float(runs.loc[runs["strategy"] == name, "lr"].median()) for name in (SEQUENTIAL, STASH)}
    made: dict[str, Any] = cell | {"epochs": epochs, "moves": {name: rate * epochs for name, rate in rates.items()}}
    return made


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    costs = {title: interval(*cost_ends(row, cost)) for cost, title in COSTS.items()}
    return {
        "cell": row["cell"],
        "epochs": row["epochs"],
        "n": row["seeds"],
        "rate × epochs, sequential": f"{row['moves'][SEQUENTIAL]:.2g}",
        "rate × epochs, stash": f"{row['moves'][STASH]:.2g}",
        "sequential": score(row["whole"]),
        "stash": score(row["reached"]),
        **costs,
        "latest diverged": f"{row['diverged_latest']} of {row['seeds']}",
    }


def _failures(row: Mapping[str, Any]) -> str:
    """A line of a title that counts failed runs of the latest weights; empty if none failed."""
    lost = row["diverged_latest"]
    return f"\n{lost} of {row['seeds']} runs without a history failed at {row['epochs']} epochs" if lost else ""


_WORDS = {
    Answer.YES: "shown to be",
    Answer.NO: "shown not to be",
    Answer.UNDECIDED: "not shown to be, nor not to be,",
}


def fallen(short: Mapping[str, Any], long: Mapping[str, Any], cost: str) -> Answer:
    """Whether a cost is shown to fall to a third, by both intervals."""
    (_, low, high), (_, least, most) = cost_ends(short, cost), cost_ends(long, cost)
    return Answer.YES if most < low / _PART else Answer.NO if least > high / _PART else Answer.UNDECIDED


def fall(short: Mapping[str, Any], long: Mapping[str, Any], cost: str) -> str:
    """What a cost falls to, and whether it is shown to fall to a third."""
    what = f"{short['cell']}, {long['epochs']} instead of {short['epochs']} epochs: what {COSTS[cost]}"
    found = f"{_share(short, long, cost)}{_failed(long, cost)}"
    return f"{what} is {found}, {_WORDS[fallen(short, long, cost)]} below a third."


def _share(short: Mapping[str, Any], long: Mapping[str, Any], cost: str) -> str:
    return f"{percent(long[cost] / short[cost]) if short[cost] > 0 else 'an undefined share'} of before"


def _failed(long: Mapping[str, Any], cost: str) -> str:
    """How many of the longer runs of the latest weights count as guessing."""
    lost = long["diverged_latest"] if cost == "inconsistency" else 0
    return f"; {lost} of {long['seeds']} runs diverged" if lost else ""


evidence.table("longer", shown=None, when=lambda longer: longer is not None)(lambda longer: longer["table"])


_LOOKS = {"delay": look(SEQUENTIAL).colour, "inconsistency": look(LATEST).colour}
"""The colours that these costs have in the pictures of all costs."""


@evidence.figure("longer", when=lambda longer: longer is not None)
def draw(longer: dict[str, Any], level: float) -> Figure:
    """Draw both costs over the epochs, a panel per cell, and a third of what each was."""
    pairs = list(zip(longer["rows"][::2], longer["rows"][1::2], strict=True))
    columns = min(3, len(pairs))
    figure, axes = style.canvas(0.9 + 1.9 * -(-len(pairs) // columns), columns, -(-len(pairs) // columns), len(pairs))
    for axis, pair in zip(axes.flat, pairs, strict=False):
        x = [row["epochs"] for row in pair]
        for cost, colour in _LOOKS.items():
            mean, low, high = np.transpose([cost_ends(row, cost) for row in pair])
            axis.errorbar(x, mean, [mean - low, high - mean], color=colour, marker="o", capsize=2)
            axis.plot(x, [mean[0] / _PART] * 2, color=colour, linestyle=(0, (4, 2)), linewidth=0.8)
        axis.set(
            title=f"{pair[0]['cell']}{_failures(pair[1])}",
            xlabel="epochs",
            ylabel=f"cost ({pair[0]['unit']})",
            xticks=x,
        )
    lines = [style.handle(COSTS[cost], color=colour, marker="o") for cost, colour in _LOOKS.items()]
    third = style.handle("a third of before", color="#444444", linestyle=(0, (4, 2)))
    style.legend(figure, [*lines, third], 3, "What the delay and doing without a history cost in longer runs")
    n = span([row["seeds"] for row in longer["rows"]])
    style.note(
        figure, f"Means with {100 * (1 - 2 * level):g} % intervals, n = {n} seeds; each length has rates of its own."
    )
    return figure
