"""Balanced stages: cut where the slowest stage is as fast as possible, by the layers' times on this machine.

A pipeline runs at the speed of its slowest stage. Floating-point operations say little about that: on a CPU a narrow
convolution reaches a fraction of a wide one's rate. So :func:`layerpipe2.planning.profiling.profile` times real
training steps, layer by layer, and ``balanced`` cuts by those times; its prediction can be held against the measured
speed of the pipeline.

>>> work = profile(layers, x, make_optimizer)
>>> delayed = profile(layers, x, make_optimizer, history=make_history("ema-span"))
>>> best = balanced(work, stages=2, delayed=delayed)
>>> stages = partition_at(layers, best.starts)

Every stage but the last is delayed, and its weight history takes time of its own: several passes over all its weights
per update. Where layers have many weights and small images that is as much as a layer; a cut that forgets it makes the
first stages too long.

The times stand in the place of operations, in s, so that all that ``layerpipe2.planning`` computes from operations
holds for measured times on ``FlopDevice(1.0)``, whose speed is one second per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from layerpipe2.delays import Delays
from layerpipe2.planning import Costs, FlopDevice, Link, StageWork
from layerpipe2.planning.partitions import chain_cuts, merge


@dataclass(frozen=True)
class Balance:
    """A cut of a profiled network, and the speed that its times predict for one processor per stage.

    Attributes:
        units: the profile, see :func:`layerpipe2.planning.profiling.profile`.
        starts: first unit of every stage, as ``layerpipe2.stages.partition_at`` wants it.
        link: the connection between two neighbours.
        delayed: the profile with a weight history, for all stages but the last; by default there is none.
    """

    units: tuple[StageWork, ...]
    starts: tuple[int, ...]
    link: Link = field(default_factory=Link)
    delayed: tuple[StageWork, ...] = ()

    @property
    def device(self) -> FlopDevice:
        """The device model on which the profile's seconds are seconds."""
        return FlopDevice(1.0, self.link)

    @property
    def stages(self) -> tuple[StageWork, ...]:
        """The profile of every stage, with its weight history if it is delayed."""
        cuts = (*self.starts, len(self.units))
        return (*merge(self.delayed or self.units, cuts)[:-1], merge(self.units, cuts)[-1])

    @property
    def seconds(self) -> tuple[float, ...]:
        """Time of every stage per mini-batch: forward, backward and update."""
        return tuple(stage.total.flops for stage in self.stages)

    @property
    def sequential(self) -> float:
        """Time in s of one mini-batch on one processor that does everything, without delays."""
        return sum(unit.total.flops for unit in self.units)

    def period(self, convention: str = "layerpipe2") -> float:
        """Predicted time in s per mini-batch of the asynchronous pipeline, in the steady state.

        The iteration bound of ``layerpipe2.planning.Costs.period``: the slowest stage or link, unless the delays of
        ``convention`` are too short to hide the way there and back.

        Raises:
            UserError: on an unknown convention.
        """
        return Costs(self.stages, Delays.by_law(convention, len(self.starts))).period(self.device)

    def speedup(self, convention: str = "layerpipe2") -> float:
        """Predicted speed over one processor, at most the number of stages."""
        return self.sequential / self.period(convention)


def balanced(
    units: Sequence[StageWork], stages: int, link: Link | None = None, *, delayed: Sequence[StageWork] = ()
) -> Balance:
    """The contiguous cut whose slowest stage or link is fastest; among equals, the one that sends the fewest bytes.

    Exact, by dynamic programming over (stages, units) (``layerpipe2.planning.partitions``).

    Args:
        units: measured times per unit, see :func:`layerpipe2.planning.profiling.profile`.
        stages: from 1 to ``len(units)``.
        link: the connection between neighbours; None: transfers take no time.
        delayed: measured times with a weight history, which all stages but the last one have.

    Raises:
        UserError: if there are more stages than units, or none.
    """
    link = link or Link()
    cuts = [(float(unit.output_bytes), float(unit.output_bytes)) for unit in units[:-1]]
    last, others = ([unit.total.flops for unit in work] for work in (units, delayed or units))
    ends = chain_cuts(others, cuts, stages, link.occupation, last=last)
    return Balance(tuple(units), ends[:-1], link, tuple(delayed))
