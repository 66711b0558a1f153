"""Balanced stages: time every layer on this machine, then cut where the slowest stage is as fast as possible.

A pipeline runs at the speed of its slowest stage. Floating-point operations say little about that: on a CPU a narrow
convolution reaches a fraction of a wide one's rate. So ``profile`` times one real training step, layer by layer, and
``balanced`` cuts by those times; its prediction can be held against the measured speed of the pipeline.

>>> work = profile(layers, x, make_optimizer)
>>> best = balanced(work, stages=2)
>>> stages = partition_at(layers, best.starts)

The times stand in the place of operations, in s, so that all that ``layerpipe2.costs`` and ``layerpipe2.schedules``
compute from operations holds for measured times on ``FlopDevice(1.0)``, whose speed is one second per second.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.costs import Costs, FlopDevice, Link, StageWork, Work, measure
from layerpipe2.costs.partitions import chain_cuts, merge
from layerpipe2.delays import CONVENTIONS
from layerpipe2.errors import UserError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
_Times = tuple[list[float], list[float], list[float]]


@dataclass(frozen=True)
class Balance:
    """A cut of a profiled network, and the speed that its times predict for one processor per stage.

    Attributes:
        units: the profile, see :func:`profile`.
        starts: first unit of every stage, as ``layerpipe2.stages.partition_at`` wants it.
        link: the connection between two neighbours.
    """

    units: tuple[StageWork, ...]
    starts: tuple[int, ...]
    link: Link = field(default_factory=Link)

    @property
    def device(self) -> FlopDevice:
        """The device model on which the profile's seconds are seconds."""
        return FlopDevice(1.0, self.link)

    @property
    def stages(self) -> tuple[StageWork, ...]:
        """The profile of every stage."""
        return merge(self.units, (*self.starts, len(self.units)))

    @property
    def seconds(self) -> tuple[float, ...]:
        """Time of every stage per mini-batch: forward, backward and update."""
        return tuple(stage.total.flops for stage in self.stages)

    @property
    def sequential(self) -> float:
        """Time in s of one mini-batch on one processor that does all stages."""
        return sum(self.seconds)

    def period(self, convention: str = "layerpipe2") -> float:
        """Predicted time in s per mini-batch of the asynchronous pipeline, in the steady state.

        The iteration bound of ``layerpipe2.costs.Costs.period``: the slowest stage or link, unless the delays of
        ``convention`` are too short to hide the way there and back.

        Raises:
            UserError: on an unknown convention.
        """
        if convention not in CONVENTIONS:
            raise UserError(f"unknown delay convention {convention!r}; choose one of {', '.join(CONVENTIONS)}")
        return Costs(self.stages, CONVENTIONS[convention](len(self.starts))).period(self.device)

    def speedup(self, convention: str = "layerpipe2") -> float:
        """Predicted speed over one processor, at most the number of stages."""
        return self.sequential / self.period(convention)


def balanced(units: Sequence[StageWork], stages: int, link: Link | None = None) -> Balance:
    """The contiguous cut whose slowest stage or link is fastest; among equals, the one that sends the fewest bytes.

    Exact, by dynamic programming over (stages, units) (``layerpipe2.costs.partitions``).

    Args:
        units: measured times per unit, see :func:`profile`.
        stages: from 1 to ``len(units)``.
        link: the connection between neighbours; None: transfers take no time.

    Raises:
        UserError: if there are more stages than units, or none.
    """
    link = link or Link()
    cuts = [(float(unit.output_bytes), float(unit.output_bytes)) for unit in units[:-1]]
    ends = chain_cuts([unit.total.flops for unit in units], cuts, stages, link.occupation)
    return Balance(tuple(units), ends[:-1], link)


def profile(
    units: Sequence[nn.Module],
    x: Tensor,
    make_optimizer: MakeOptimizer | None = None,
    *,
    repeats: int = 9,
    warmup: int = 2,
) -> tuple[StageWork, ...]:
    """Time real training steps of float32 units, layer by layer, with the current number of threads.

    Args:
        units: the network as a flat list, input side first; copied, so that they stay as they are.
        x: one mini-batch of inputs (B, ...), on the units' device.
        make_optimizer: parameters -> optimizer; its update then counts too.
        repeats: timed steps, of which the median counts for every unit on its own.
        warmup: steps before them.

    Returns:
        One item per unit: median seconds in ``forward``, in ``activation`` (the whole backward pass) and in
        ``weight`` (the update, which starts when the gradient is already on its way); sizes in bytes.

    Raises:
        UserError: on counts out of range, or a unit that refuses its input.
    """
    for name, value, least in (("repeats", repeats, 1), ("warmup", warmup, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{name} of the profile is {value!r}; give an integer of at least {least}")
    sizes = measure(units, x.shape[1:], x.shape[0])
    copies = [copy.deepcopy(unit) for unit in units]
    optimizers = [_optimizer(unit, make_optimizer) for unit in copies]
    steps = [_step(copies, optimizers, x) for _ in range(warmup + repeats)][warmup:]
    found = []
    for number, size in enumerate(sizes):
        forward, backward, update = (Work(statistics.median(step[kind][number] for step in steps)) for kind in range(3))
        found.append(replace(size, forward=forward, activation=backward, weight=update))
    return tuple(found)


def _optimizer(unit: nn.Module, make: MakeOptimizer | None) -> Optimizer | None:
    parameters = [p for p in unit.parameters() if p.requires_grad]
    return make(parameters) if make is not None and parameters else None


def _step(units: Sequence[nn.Module], optimizers: Sequence[Optimizer | None], x: Tensor) -> _Times:
    """One training step; seconds per unit of forward pass, backward pass and update."""
    forward, backward, update = list[float](), list[float](), list[float]()
    inputs, outputs = list[Tensor](), list[Tensor]()
    for number, unit in enumerate(units):
        inputs.append(x.detach().requires_grad_(number > 0))
        start = _now(x)
        x = unit(inputs[-1])
        forward.append(_now(x) - start)
        outputs.append(x)
    gradient: Tensor | None = torch.full_like(x, 1 / x.numel())
    for source, y in zip(reversed(inputs), reversed(outputs), strict=True):
        start = _now(x)
        if y.requires_grad:
            y.backward(gradient)  # type: ignore[no-untyped-call]
        backward.append(_now(x) - start)
        gradient = source.grad
    for unit, optimizer in zip(units, optimizers, strict=True):
        start = _now(x)
        if optimizer is not None:
            optimizer.step()
        update.append(_now(x) - start)
        unit.zero_grad(set_to_none=True)
    return forward, backward[::-1], update


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()
