"""Balanced stages: cut a chain into consecutive parts, one per processor, so that the slowest is as fast as possible.

A pipeline runs at the speed of its slowest stage or link; of equally fast cuts the one with the fewest bytes is taken.
PipeDream chooses its stages so (without its data-parallel replicas of a stage); LayerPipe cuts a finer chain.

Floating-point operations say little about the speed: on a CPU a narrow convolution reaches a fraction of a wide one's
rate. So :func:`layerpipe2.planning.profiling.profile` times real training steps, unit by unit, and ``balanced`` cuts by
those times; its prediction can be compared with the measured speed of the pipeline.

>>> work = profile(units, x, make_optimizer)
>>> delayed = profile(units, x, make_optimizer, history=make_strategy("ema-span"))
>>> best = balanced(work, stages=2, delayed=delayed)
>>> stages = partition_at(units, best.starts)

Every stage but the last is delayed, and its weight history takes time of its own: several passes over all its weights
per update. Where units have many weights and small images that is as much as a unit; a cut that forgets it makes the
first stages too long.

The times stand in the place of operations, in s, so that all that ``layerpipe2.planning`` computes from operations
holds for measured times on ``FlopDevice(1.0)``, whose speed is one second per second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from layerpipe2.delays import Delays
from layerpipe2.errors import integer
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import FlopDevice, Link
from layerpipe2.planning.work import StageWork, Work


@dataclass(frozen=True)
class Balance:
    """A cut of a profiled network, and the speed that its times predict for one processor per stage.

    Attributes:
        units: measured times per unit, see :func:`layerpipe2.planning.profiling.profile`.
        starts: first unit of every stage, as ``layerpipe2.stages.partition_at`` wants it.
        link: the connection between two neighbours.
        delayed: the same with a weight history, for all stages but the last; by default there is none.
        recomputes: whether all stages but the last one run every forward pass twice, see ``Costs``.
    """

    units: tuple[StageWork, ...]
    starts: tuple[int, ...]
    link: Link = field(default_factory=Link)
    delayed: tuple[StageWork, ...] = ()
    recomputes: bool = False

    @property
    def device(self) -> FlopDevice:
        """The device model on which measured seconds are seconds."""
        return FlopDevice(1.0, self.link)

    @property
    def stages(self) -> tuple[StageWork, ...]:
        """The times of every stage, with its weight history if it is delayed."""
        cuts = (*self.starts, len(self.units))
        return (*merge(self.delayed or self.units, cuts)[:-1], merge(self.units, cuts)[-1])

    @property
    def seconds(self) -> tuple[float, ...]:
        """Time of every stage per mini-batch: forward (once more where it recomputes), backward and update."""
        return self._costs("layerpipe2").seconds(self.device)

    @property
    def sequential(self) -> float:
        """Time in s of one mini-batch on one processor that does everything, without delays."""
        return sum(unit.total.flops for unit in self.units)

    def period(self, convention: str = "layerpipe2") -> float:
        """Predict the time in s per mini-batch of the asynchronous pipeline, in the steady state.

        The iteration bound of ``layerpipe2.planning.Costs.period``: the slowest stage or link, unless the delays of
        ``convention`` are too short to hide the way there and back.

        Raises:
            UserError: on an unknown delay law.
        """
        return self._costs(convention).period(self.device)

    def speedup(self, convention: str = "layerpipe2") -> float:
        """Predict the speed over one processor, at most the number of stages."""
        return self.sequential / self.period(convention)

    def _costs(self, convention: str) -> Costs:
        return Costs(self.stages, Delays.by_law(convention, len(self.starts)), recomputes=self.recomputes)


def balanced(
    units: Sequence[StageWork],
    stages: int,
    link: Link | None = None,
    *,
    delayed: Sequence[StageWork] = (),
    recomputes: bool = False,
) -> Balance:
    """Find the contiguous cut whose slowest stage or link is fastest and, among equals, sends the fewest bytes.

    Exact, by dynamic programming over (stages, units): :func:`chain_cuts`.

    Args:
        units: measured times per unit, see :func:`layerpipe2.planning.profiling.profile`.
        stages: from 1 to ``len(units)``.
        link: the connection between neighbours; None: transfers take no time.
        delayed: measured times with a weight history, which all stages but the last one have.
        recomputes: these stages recompute their activations as well.

    Raises:
        UserError: if there are more stages than units, or none.
    """
    link = link or Link()
    cuts = [(float(unit.output_bytes), float(unit.output_bytes)) for unit in units[:-1]]
    last = [unit.total.flops for unit in units]
    others = [unit.total.flops + recomputes * unit.forward.flops for unit in delayed or units]
    ends = chain_cuts(others, cuts, stages, link.occupation, last=last)
    return Balance(tuple(units), ends[:-1], link, tuple(delayed), recomputes)


Cut = tuple[float, float]
"""Bytes that cross a place of the chain per mini-batch, towards the output and towards the input."""


def chain_cuts(
    loads: Sequence[float],
    cuts: Sequence[Cut],
    parts: int,
    occupation: Callable[[float], float],
    *,
    last: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Find where to cut a chain of n items into ``parts`` non-empty runs.

    ``loads`` (n,) are the items' times in s, ``cuts`` (n - 1,) the bytes after each item but the last, ``occupation``
    turns bytes into s on a link of one direction. Where items take another time in the last run, ``last`` has it (n,).

    Returns:
        Starts of the runs and n: (parts + 1,). The largest run or link time is least, then the sum of bytes.

    Raises:
        UserError: if there are more parts than items, or none.
    """
    n = len(loads)
    integer(parts, f"number of stages for {n} units", 1, n)
    sums, last_sums = ([0.0, *accumulate(times)] for times in (loads, loads if last is None else last))
    links = [0.0, *(max(occupation(right), occupation(left)) for right, left in cuts)]
    bytes_ = [0.0, *(right + left for right, left in cuts)]

    def time(i: int, j: int) -> float:
        of = last_sums if j == n else sums
        return max(of[j] - of[i], links[i])

    def worst(best: float, i: int, j: int) -> float:
        return max(best, time(i, j))

    bound = _solve(n, parts, worst)[0] * (1 + 1e-12)

    def least_bytes(best: float, i: int, j: int) -> float:
        return best + bytes_[i] if time(i, j) <= bound else float("inf")

    return _solve(n, parts, least_bytes)[1]


def _solve(n: int, parts: int, extend: Callable[[float, int, int], float]) -> tuple[float, tuple[int, ...]]:
    """Do dynamic programming over (runs, items); ``extend(value up to i, i, j)`` adds the run of items i to j - 1."""
    infinity = float("inf")
    value, back = [0.0] + [infinity] * n, list[list[int]]()
    for part in range(1, parts + 1):
        row, origin = [infinity] * (n + 1), [0] * (n + 1)
        for j in range(part, n + 1):
            candidates = ((extend(value[i], i, j), i) for i in range(part - 1, j) if value[i] < infinity)
            row[j], origin[j] = min(candidates, default=(infinity, 0))
        value = row
        back.append(origin)
    cuts = [n]
    for origin in reversed(back):
        cuts.append(origin[cuts[-1]])
    return value[n], tuple(reversed(cuts))


def merge(stages: Sequence[StageWork], cuts: Sequence[int]) -> tuple[StageWork, ...]:
    """Return the stages between ``cuts`` as one each.

    ``saved_bytes`` become an upper bound: a tensor that two of the merged stages keep is counted for both.
    """

    def merged(parts: Sequence[StageWork]) -> StageWork:
        return StageWork(
            sum((part.forward for part in parts), Work()),
            sum((part.activation for part in parts), Work()),
            sum((part.weight for part in parts), Work()),
            sum(part.parameter_bytes for part in parts),
            sum(part.saved_bytes for part in parts),
            parts[0].input_bytes,
            parts[-1].output_bytes,
        )

    return tuple(merged(stages[a:b]) for a, b in pairwise(cuts))
