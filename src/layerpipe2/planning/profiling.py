"""How long every unit takes on this machine: real training steps, timed unit by unit."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.packing import pack, unpack
from layerpipe2.engine.stage import Stage
from layerpipe2.errors import UserError, integer
from layerpipe2.pipeline.in_flight import InFlight
from layerpipe2.pipeline.passes import HandOn, Pass, SplitPass, WholePass
from layerpipe2.planning import StageWork, Work
from layerpipe2.planning.measure import measure_from
from layerpipe2.strategies import Strategy

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
_Times = tuple[list[float], list[float], list[float], list[float]]


def profile(
    units: Sequence[nn.Module],
    x: Tensor,
    make_optimizer: MakeOptimizer | None = None,
    *,
    history: Strategy | None = None,
    split: bool = False,
    repeats: int = 9,
    warmup: int = 2,
) -> tuple[StageWork, ...]:
    """Time real training steps of float32 units, unit by unit, with the current number of threads.

    Args:
        units: the network as a flat list, input side first; copied, so that they stay as they are.
        x: one mini-batch of inputs (B, ...), or of token numbers int64 (B, T), on the units' device; several tensors
            as :func:`layerpipe2.engine.packing.pack` makes one of them.
        make_optimizer: parameters -> optimizer; its update then counts too.
        history: time the units as a pipeline's process runs those of delayed stages, with this weight history.
        split: time the two kinds of gradients apart, as schedules of the zero-bubble kind run them; without history.
        repeats: timed steps, of which the median counts for every unit on its own.
        warmup: steps before them.

    Returns:
        One item per unit: median seconds in ``forward``, in ``activation`` (the whole backward pass) and in
        ``weight`` (the update, which starts when the gradient is already on its way); sizes in bytes. With ``split``
        the gradients of the weights count in ``weight``, too.

    Raises:
        UserError: on counts out of range, a history without an optimizer or with a split backward pass, or a unit that
            refuses its input, or whose backward pass cannot be split.
    """
    if history is not None and split:
        raise UserError("a profile has a weight history or a split backward pass; give one of them")
    if history is not None and make_optimizer is None:
        raise UserError("a weight history records an optimizer's updates; give make_optimizer, too")
    for name, value, least in (("repeats", repeats, 1), ("warmup", warmup, 0)):
        integer(value, f"{name} of the profile", least)
    sizes = measure_from(units, unpack(x))
    parts = [_part(k, copy.deepcopy(unit), make_optimizer, history, split) for k, unit in enumerate(units)]
    steps = [_step(parts, x) for _ in range(warmup + repeats)][warmup:]
    found = []
    for number, size in enumerate(sizes):
        kinds = (Work(statistics.median(step[kind][number] for step in steps)) for kind in range(4))
        forward, backward, rest, update = kinds
        activation, weight = (backward, rest + update) if split else (backward + rest, update)
        found.append(replace(size, forward=forward, activation=activation, weight=weight))
    return tuple(found)


class _Plain:
    """A unit as ordinary training runs it, or, split, with gradients of weights after that of the input."""

    def __init__(self, unit: nn.Module, index: int, optimizer: Optimizer | None, *, split: bool) -> None:
        self._unit, self._index, self._optimizer = unit, index, optimizer
        self._pass: Callable[[nn.Module, Tensor, HandOn], Pass] = SplitPass if split else WholePass

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        self._passing = self._pass(self._unit, x.detach().requires_grad_(self._index > 0), pack)
        return self._passing.y, None

    def backward(self, gradient: Tensor | None) -> Tensor | None:
        return self._passing.input_gradient(gradient)

    def finish_backward(self) -> None:
        self._passing.weight_gradients()

    def update(self) -> None:
        if self._optimizer is not None:
            self._optimizer.step()
        self._unit.zero_grad(set_to_none=True)


def _part(
    index: int, unit: nn.Module, make: MakeOptimizer | None, history: Strategy | None, split: bool
) -> _Plain | InFlight:
    parameters = [p for p in unit.parameters() if p.requires_grad]
    optimizer = make(parameters) if make is not None and parameters else None
    if history is None:
        return _Plain(unit, index, optimizer, split=split)
    # Delay 2 is that of a stage with one behind it; what a history does per update is the same for every delay.
    step = torch.zeros(1, dtype=torch.int64, device=next(unit.parameters(), torch.zeros(0)).device)
    return InFlight(Stage(unit, index, 2, history, step, ahead=True, trains=optimizer is not None, seed=0), optimizer)


def _step(parts: Sequence[_Plain | InFlight], x: Tensor) -> _Times:
    """Do one training step; return seconds per unit: forward pass, backward pass, what it puts off, update."""
    forward, backward, rest, update = list[float](), list[float](), list[float](), list[float]()
    for part in parts:
        start = _now(x)
        x, _ = part.forward(x)
        forward.append(_now(x) - start)
    gradient: Tensor | None = torch.full_like(x, 1 / x.numel())
    for part in reversed(parts):
        start = _now(x)
        gradient = part.backward(gradient)
        between = _now(x)
        part.finish_backward()
        backward.append(between - start)
        rest.append(_now(x) - between)
    for part in parts:
        start = _now(x)
        part.update()
        update.append(_now(x) - start)
    return forward, backward[::-1], rest[::-1], update


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()
