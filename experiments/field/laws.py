"""Delay laws that follow from keeping two versions of the weights, in the number of stages ``K``.

Delays count mini-batches: with ``a`` of them per update a delay of one update is ``a`` mini-batches.
"""

from layerpipe2 import Delays
from layerpipe2.errors import integer


def constant_one(stages: int, accumulate: int = 1) -> Delays:
    """PipeDream-2BW (arXiv 2006.09503): ``W(t+1) = W(t) - lr g(W(t-1))`` at every stage, also at the last one.

    A pipeline has it if it accumulates at least as many mini-batches as it has stages, ``a >= K``; with fewer it is a
    model of the update alone. Two versions of the weights, one of them beside the latest.
    """
    return Delays.custom([integer(accumulate, "accumulate", 1)] * stages)


def at_most_one(stages: int, accumulate: int = 1) -> Delays:
    """AMDP (arXiv 2605.29664), as cited in secondary sources: ``min(S, 1)``, one update or, at the last stage, none."""
    return Delays.custom([min(stages - 1 - k, 1) * integer(accumulate, "accumulate", 1) for k in range(stages)])
