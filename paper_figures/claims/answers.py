"""The three answers that a reader wants first, in words, from the cells of the default study."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from layerpipe2.lab.judging.designs import LATEST, pipeline_aware
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures.claims.assay import NOT_NEEDED, Assay, in_place_of_a_verdict
from paper_figures.text import listed, network_label
from paper_figures.verdicts import OUTCOMES, Answer


def answers(found: Assay) -> pd.DataFrame | None:
    """Question and answer: whether old weights matter, whether an average stands in for them, what the delay costs.

    None without cells.
    """
    if not len(found.costs):
        return None
    rows = [
        ("Does it matter which weights the backward pass uses?", _matter(found)),
        ("Can a moving average stand in for the stored ones?", _stand_in(found)),
        ("Is pipelining then free?", _delay(found)),
    ]
    return pd.DataFrame(rows, columns=["question", "answer"])


def _matter(found: Assay) -> str:
    cells = found.costs.to_dict("records")
    costly = [f"{_name(cell)} ({_lost(cell)})" for cell in cells if cell["sensitive"]]
    words = [(cell, in_place_of_a_verdict(cell)) for cell in cells]
    needless = [f"{_name(cell)} (less than {cell['margin']:.1f} points)" for cell, word in words if word == NOT_NEEDED]
    silent = [_name(cell) for cell, word in words if word not in ("", NOT_NEEDED)]
    said = [f"Yes: the latest weights lose against stored ones for {listed(costly)}" if costly else ""]
    said += [f"hardly for {listed(needless)}" if needless else ""]
    said += [f"these runs can't tell for {listed(silent)}" if silent else ""]
    return _sentence(said)


def _stand_in(found: Assay) -> str:
    names = [name for name in ordered(found.rules["strategy"]) if name != LATEST]
    aware = pipeline_aware(names)
    if not found.costs["sensitive"].any():
        return "These runs can't tell: nothing is lost without old weights."
    said = " ".join(_of_strategy(found, name, follows=name in aware) for name in names)
    return f"In brackets, what is won back of that loss. {said}"


def _of_strategy(found: Assay, name: str, *, follows: bool) -> str:
    rows = found.sensitive.rules[found.sensitive.rules["strategy"] == name].to_dict("records")
    words: dict[Answer, list[str]] = {}
    for row in rows:
        share = f" ({100 * row['share']:.0f} %)" if math.isfinite(row["share"]) else ""
        words.setdefault(OUTCOMES.get(row["outcome"], Answer.UNDECIDED), []).append(f"{_name(row)}{share}")
    said = {Answer.YES: "yes for {}", Answer.NO: "no for {}", Answer.UNDECIDED: "not decided for {}"}
    parts = [text.format(listed(words[answer])) for answer, text in said.items() if answer in words]
    what = f"{find_strategy(name).label}{', which follows the delay' if follows else ''}"
    return f"{what}: {'; '.join(parts)}."


def _delay(found: Assay) -> str:
    cells = found.costs.to_dict("records")
    costs = [f"{_name(cell)} {cell['delay']:.1f}" for cell in cells]
    return f"No. With exact old weights, late gradients still cost, in points of accuracy: {listed(costs)}."


def _lost(cell: Mapping[str, Any]) -> str:
    diverged = cell["diverged_latest"]
    points = f"{cell['inconsistency']:.1f} points"
    return f"{points}, and {diverged} of {cell['seeds']} runs diverged" if diverged else points


def _name(cell: Mapping[str, Any]) -> str:
    return network_label(cell["network"])


def _sentence(parts: Iterable[str]) -> str:
    text = "; ".join(filter(None, parts))
    return f"{text[:1].upper()}{text[1:]}."
