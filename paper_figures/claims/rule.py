"""The rule of thumb: which measured quantity decides whether a weight history can be dropped, and where."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["drop", "keep", "unknown"]


@dataclass(frozen=True)
class Rule:
    """On one side of ``threshold`` the history can be dropped, on the other one is to be kept.

    Attributes:
        quantity: a key of :func:`experiments.predicting.signs.predictors`.
        meaning: the quantity in words.
        threshold: where it turns.
        drop_above: whether the history can be dropped from the threshold on; otherwise, below it.
        cells: how many cells (network, data, optimizer, stages) it was fitted on.
        source: where those stand.
    """

    quantity: str
    meaning: str
    threshold: float
    drop_above: bool
    cells: int
    source: str

    def decide(self, value: float | None) -> Verdict:
        """What a measured value says; ``None``: it could not be measured."""
        if value is None:
            return "unknown"
        return "drop" if (value >= self.threshold) == self.drop_above else "keep"


def strategy_of(quantity: str) -> str:
    """The strategy whose weights a quantity is about; of those of the whole training, ``latest``."""
    return quantity.removesuffix(".worst").partition(".")[2] or "latest"


RULE = Rule(
    quantity="alignment.latest.worst",
    meaning="the cosine between the gradient of the latest weights and the exact one in the worst stage",
    threshold=0.990854,
    drop_above=True,
    cells=46,
    source="paper_figures/out/evidence/evidence.md",
)
"""The rule in use: what ``python -m paper_figures.build rule`` prints, from the coarse searches of the evidence."""
