"""Verdicts on the claims of the abstract: what a verdict is, and the list of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"

OUTCOME_WORDS: Mapping[str, str] = {
    "equivalent": REPRODUCED,
    "better": REPRODUCED,
    "worse": NOT_REPRODUCED,
    "diverged": NOT_REPRODUCED,
}
"""Outcome of a comparison with exact stashing -> verdict on it; any other outcome is inconclusive."""


def inconclusive(n: int) -> str:
    """The verdict that the data decide nothing; n is the number of units of the test."""
    return f"inconclusive (n={n})"


def word(outcome: str, n: int) -> str:
    """Verdict of one comparison."""
    return OUTCOME_WORDS.get(outcome, inconclusive(n))


@dataclass(frozen=True)
class Claim:
    """One claim of the abstract and what the records say about it.

    Attributes:
        key: C1 ... C8, as numbered in the project's reading of the abstract.
        statement: the claim.
        verdict: ``reproduced``, ``not reproduced`` or ``inconclusive (n=...)``.
        test: how the verdict is found from the data.
        evidence: sentences with the numbers.
        caveat: what a reader of the verdict alone must know; empty if nothing.
    """

    key: str
    statement: str
    verdict: str
    test: str
    evidence: tuple[str, ...]
    caveat: str = ""

    @property
    def told(self) -> str:
        """The verdict with its caveat, where a reader sees no evidence beside it."""
        return self.verdict + (f" ({self.caveat})" if self.caveat else "")


STATEMENTS: Mapping[str, str] = {
    "C1": "The delay that a layer's gradient needs follows from the network's structure alone: inner (late) layers "
    "few, outer (early) layers many.",
    "C2": "Pipelined at every layer, the delay of a layer depends only on the number of downstream stages.",
    "C3": "Pipelined in groups, all layers of a group share one delay.",
    "C4": "The delays can be derived formally, by delayed-gradient adaptation and retiming: there are places where "
    "delays may legally go.",
    "C5": "Pipelining implicitly needs historical weights, and storing them is a memory cost.",
    "C6": "A pipeline-aware moving average reconstructs the historical weights instead of storing them, without "
    "losing accuracy.",
    "C7": "Grouping layers is a controlled trade-off of communication against computation.",
    "C8": "It applies to convolutional and fully connected networks (and to spiking ones, which are not tested here).",
}
