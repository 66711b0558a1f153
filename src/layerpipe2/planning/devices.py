"""Device models: seconds of a task on one processor, and seconds of a message between two.

Stated simplifications: only matrix products and convolutions take time; every ordered pair of processors has a link
of its own (full duplex); a link carries one message after the other while the processors compute.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from layerpipe2.errors import UserError
from layerpipe2.planning.work import Gemm, Work

Dataflow = Literal["os", "ws", "is"]


def _positive(what: str, value: float, unit: str) -> None:
    if isinstance(value, bool) or not value > 0:
        raise UserError(f"{what} is {value!r}; give a number above 0, in {unit}")


@dataclass(frozen=True)
class Link:
    """A connection: ``bandwidth`` in bytes/s each way (infinite by default), and ``latency`` in s."""

    bandwidth: float = float("inf")
    latency: float = 0.0

    def __post_init__(self) -> None:
        _positive("link bandwidth", self.bandwidth, "bytes/s")
        if not 0 <= self.latency < float("inf"):
            raise UserError(f"link latency is {self.latency!r} s; give a finite number of at least 0")

    def occupation(self, size: float) -> float:
        """Return the time in s for which a message of ``size`` bytes keeps the link busy."""
        return size / self.bandwidth


@dataclass(frozen=True)
class FlopDevice:
    """A processor that does ``rate`` floating-point operations per second, whatever the shapes."""

    rate: float
    link: Link = Link()

    def __post_init__(self) -> None:
        _positive("processor speed", self.rate, "FLOP/s")

    def seconds(self, work: Work) -> float:
        """Return the time in s of a task: operations over rate."""
        return work.flops / self.rate


@dataclass(frozen=True)
class SystolicArray:
    """A systolic array of ``rows`` x ``columns`` multiply-accumulate cells at ``clock`` Hz.

    A product (m, k) x (k, n) is cut into ceil(S_r / rows) ceil(S_c / columns) folds, one after the other, with::

        os  output stationary   S_r = m  S_c = n  T = k   cycles per fold = T + rows + columns - 2
        ws  weight stationary   S_r = k  S_c = n  T = m   cycles per fold = T + 2 rows + columns - 2
        is  input stationary    S_r = k  S_c = m  T = n   cycles per fold = T + 2 rows + columns - 2

    The analytical, stall-free model of SCALE-Sim (Samajdar et al. 2018, arXiv 1811.02883; the extra ``rows`` preload
    the stationary operand). Equal to the compute model of scalesim 3.0.0 (tests/planning/scalesim_cycles.csv).
    """

    rows: int = 128
    columns: int = 128
    dataflow: Dataflow = "os"
    clock: float = 1e9
    link: Link = Link()

    def __post_init__(self) -> None:
        _positive("array rows", self.rows, "cells")
        _positive("array columns", self.columns, "cells")
        _positive("array clock", self.clock, "Hz")
        if self.dataflow not in ("os", "ws", "is"):
            raise UserError(f"unknown dataflow {self.dataflow!r} of the systolic array; choose os, ws or is")

    def cycles(self, gemm: Gemm) -> int:
        """Return the cycles of ``gemm.count`` products."""
        m, n, k = gemm.rows, gemm.columns, gemm.inner
        high, wide, stream = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[self.dataflow]
        preload = 0 if self.dataflow == "os" else self.rows
        fold = stream + self.rows + self.columns - 2 + preload
        return gemm.count * ceil(high / self.rows) * ceil(wide / self.columns) * fold

    def seconds(self, work: Work) -> float:
        """Return the time in s of a task: cycles of all products over the clock.

        Raises:
            UserError: if some operations belong to no Linear or Conv layer, so that their shapes are not known.
        """
        known = sum(gemm.flops for gemm in work.gemms)
        if abs(known - work.flops) > 1e-6 * max(known, work.flops):
            what = f"{work.flops - known:.3g} of {work.flops:.3g} FLOPs come from no Linear or Conv layer"
            raise UserError(f"{what}; a systolic array needs their shapes: use FlopDevice for this network")
        return sum(map(self.cycles, work.gemms)) / self.clock


Device = FlopDevice | SystolicArray
"""A processor and its links."""
DEVICE = SystolicArray(128, 128, "os", 1e9, Link(64e9, 1e-6))
"""The declared processor: 128 x 128 cells, output stationary, 1 GHz; links of 64 GB/s each way and 1 us."""
