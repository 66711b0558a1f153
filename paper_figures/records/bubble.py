"""How much of its time each process computes, from time stamps."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

COMPUTING = ("forward", "backward", "weights")
"""What is not waiting; everything between it is: for messages, for turns, and copying messages."""


@dataclass(frozen=True)
class Steady:
    """The middle of a trace, neither filling nor draining.

    Attributes:
        start, stop: ms; both are ends of an update of the last process.
        batches: mini-batches between them.
        idle: share of the processes' time in which they do not compute, in [0, 1], by rank.
    """

    start: float
    stop: float
    batches: int
    idle: tuple[float, ...]

    @property
    def period(self) -> float:
        """Time in ms per mini-batch."""
        return (self.stop - self.start) / self.batches

    @property
    def mean_idle(self) -> float:
        """Share of all processes' time."""
        return sum(self.idle) / len(self.idle)


def steady(events: pd.DataFrame) -> Steady:
    """The steady state of a trace of at least 6 mini-batches and 4 per process more or less.

    The first third is left out (the pipeline fills, memory is found), and as many mini-batches at the end as
    LayerPipe2's pipeline holds, twice the number of further processes.
    """
    last = int(events["rank"].max())
    updates = events[(events["rank"] == last) & (events["what"] == "weights")].groupby("batch")["stop"].max()
    first, end = len(updates) // 3, len(updates) - 1 - 2 * last
    start, stop = float(updates.iloc[first]), float(updates.iloc[end])
    shares = tuple(_idle(events[events["rank"] == rank], start, stop) for rank in range(last + 1))
    return Steady(start, stop, end - first, shares)


def _idle(events: pd.DataFrame, start: float, stop: float) -> float:
    mine = events[events["what"].isin(COMPUTING)]
    busy = (mine["stop"].clip(upper=stop) - mine["start"].clip(lower=start)).clip(lower=0).sum()
    return float(1 - busy / (stop - start))
