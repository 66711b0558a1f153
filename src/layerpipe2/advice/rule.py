"""The rule of thumb: which measured quantity decides whether a weight history can be dropped, and where."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["drop", "keep", "unknown", "diverged"]


@dataclass(frozen=True)
class Rule:
    """``quantity`` at or above ``threshold``: drop the history; below: keep one.

    Attributes:
        quantity: a key of :func:`layerpipe2.advice.result.predictors`.
        meaning: the quantity in words.
        threshold: where it turns.
        cells: how many cells (network, data, optimizer, stages) it was fitted on; 0: nowhere yet.
        source: where those stand.
    """

    quantity: str
    meaning: str
    threshold: float
    cells: int
    source: str

    def decide(self, value: float | None) -> Verdict:
        """What a measured value says; ``None``: it could not be measured."""
        if value is None:
            return "unknown"
        return "drop" if value >= self.threshold else "keep"


RULE = Rule(
    quantity="alignment.latest",
    meaning="the cosine between the latest weights' gradient and the exact one",
    threshold=0.95,
    cells=0,
    source="provisional, not yet fitted",
)
"""The rule in use."""
