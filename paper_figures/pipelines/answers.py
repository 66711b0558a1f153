"""A question about the measurements, its answer in a word, and how numbers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from paper_figures.pipelines import variants
from paper_figures.pipelines.records import Study

REACHED, MISSED, IN_PART, NOT_MEASURED = "reached", "missed", "reached in part", "not measured"


@dataclass(frozen=True)
class Claim:
    """A title, the answer in a word, and the evidence."""

    title: str
    word: str
    text: str


def spread(values: pd.Series) -> str:
    """``1.85× (1.80–1.90, n=5)``: median, smallest and largest."""
    return f"{values.median():.2f}× ({values.min():.2f}–{values.max():.2f}, n={len(values)})"


def percent(share: float, form: str = ".0f") -> str:
    """``24 %``; another format may give a sign or digits."""
    return f"{100 * share:{form}} %"


def span(values: Iterable[float], tell: Callable[[float], str]) -> str:
    """``-4 % to +7 %``: the ends; one text if both read the same."""
    found = list(values)
    low, high = tell(min(found)), tell(max(found))
    return low if low == high else f"{low} to {high}"


def word(reached: Iterable[bool]) -> str:
    """Whether an aim is reached everywhere, somewhere or nowhere."""
    found = list(reached)
    if not found:
        return NOT_MEASURED
    return REACHED if all(found) else IN_PART if any(found) else MISSED


def listed(words: Iterable[str]) -> str:
    """``a, b and c``."""
    *head, last = list(words) or ["–"]
    return f"{', '.join(head)} and {last}" if head else last


def sign(ratio: pd.Series, above: str, below: str) -> str:
    """A word for ratios above or below one, said only if all of them are on that side."""
    return above if ratio.min() > 1 else below if ratio.max() < 1 else "no difference shown"


def candidates(study: Study) -> list[str]:
    """Variants that the aims are about, as measured."""
    return [name for name in study.variants["variant"] if variants.is_candidate(name)]
