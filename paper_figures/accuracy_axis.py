"""An accuracy axis on which 30, 97 and 99 per cent are all readable: logarithmic in the error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

_TICKS = (50, 90, 99, 80, 95, 98, 99.5, 0, 20, 60, 70, 40, 97, 98.5, 99.8, 99.9)  # the first ones go first


@dataclass(frozen=True)
class AccuracyAxis:
    """Maps an accuracy ``a`` in per cent to ``-log10(100 - a)``; errors below ``floor`` are drawn at ``floor``.

    Attributes:
        floor: smallest error drawn, in points.
        low, high: the range of the data on the axis, after mapping.
    """

    floor: float
    low: float
    high: float

    @classmethod
    def spanning(cls, accuracies: Iterable[float]) -> AccuracyAxis:
        """The scale for these accuracies (per cent); a perfect score is drawn at half of the smallest error seen."""
        errors = np.array([100.0 - a for a in accuracies if not np.isnan(a)] or [100.0])
        floor = max(float(np.min(errors, where=errors > 1e-6, initial=100.0)) / 2, 0.05)
        low, high = -np.log10(np.maximum([errors.max(), errors.min()], floor))
        return cls(floor, float(low), float(high))

    def forward(self, accuracy: ArrayLike) -> NDArray[np.float64]:
        """Place of an accuracy (per cent) on the axis."""
        return np.asarray(-np.log10(np.maximum(100.0 - np.asarray(accuracy, dtype=float), self.floor)))

    def inverse(self, place: ArrayLike) -> NDArray[np.float64]:
        """Accuracy (per cent) at a place on the axis."""
        return np.asarray(100.0 - 10.0 ** -np.asarray(place, dtype=float))

    @property
    def _margin(self) -> float:
        return max(0.07 * (self.high - self.low), 0.01)

    @property
    def strip(self) -> float:
        """Coordinate, below all data, at which diverged runs are drawn (not an accuracy)."""
        return float(self.inverse(self.low - 4 * self._margin))

    def apply(self, axis: Any, strip: bool = False) -> None:
        """Scale, ticks and limits of the y axis; with ``strip``, room and a tick for the diverged runs."""
        bottom, top = self.low - self._margin, self.high + self._margin
        ticks: list[float] = self._ticks()
        labels = [f"{a:.4g}" for a in ticks]
        if strip:
            ticks, labels = [self.strip, *ticks], ["diverged", *labels]
            axis.axhline(float(self.inverse(bottom - 0.5 * self._margin)), color="#999999", linewidth=0.6)
            bottom -= 4 * self._margin
        axis.set_yscale("function", functions=(self.forward, self.inverse))
        axis.set_yticks(ticks, labels)
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_ylim(float(self.inverse(bottom)), min(float(self.inverse(top)), 100.0 - self.floor / 2))

    def _ticks(self) -> list[float]:
        chosen: list[float] = []
        ends = (float(self.inverse(self.low)), float(self.inverse(self.high)))
        between = MaxNLocator(5).tick_values(*ends)
        for tick in (*_TICKS, *between):
            place, room = float(self.forward(tick)), 0.09 * (self.high - self.low)
            inside = tick < 100 and self.low <= place <= self.high
            if inside and all(abs(place - self.forward(other)) > room for other in chosen):
                chosen.append(float(tick))
        return sorted(chosen)
