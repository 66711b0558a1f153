"""SGD and AdamW whose step does, in the same pass over memory, what a pipeline does around an update on a CPU.

A step of torch's SGD with momentum reads or writes as much memory as the weights take 8 times. Beside it a pipeline
puts the earlier weights into the delay line, 2 times, and moves an average towards the update, 4 times. Here all three
are one pass: weights, gradient, buffers and average are read once, and written once with a row of the delay line. In
all else these optimizers are torch's: settings, state, checkpoints, schedulers, hooks; and so are the numbers, to
rounding (SGD's bit for bit on processors with fused multiply-add).

What the loop can't do is left to torch's own step: settings but rate, momentum, Nesterov's form, betas, eps and weight
decay; sparse gradients; types other than float32 and float64; GPUs; and everything where numba isn't installed.

>>> from layerpipe2 import PipelinedModule, optim
>>> from torch import nn
>>> module = PipelinedModule(
...     [nn.Linear(4, 4), nn.Linear(4, 2)],
...     "layerpipe2",
...     "ema-span",
...     optimizer=lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9),
... )
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import unwrap
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.errors import UserError
from layerpipe2.strategies import sweeps

_TORCHS = ("maximize", "foreach", "fused", "capturable", "differentiable", "amsgrad", "dampening")
"""Settings that are left to torch, if they are given."""


class Part(NamedTuple):
    """What becomes of a parameter's update beside the parameter, by address; 0: nothing.

    Attributes:
        row: where the earlier values go, in the parameter's order in memory.
        average: the average ``E`` of the updates, in the same order: ``E <- E + g (u - E)``.
        gains: ``g`` for each number of updates before; entry ``last`` for all from there on.
        last: number of that entry.
        updates: the number of updates before, int64.
    """

    row: int = 0
    average: int = 0
    gains: int = 0
    last: int = 0
    updates: int = 0


class Around(Protocol):
    """What a pipeline does around an update."""

    def places(self) -> Mapping[Tensor, Part]:
        """Where that of each delayed parameter takes place, if the optimizer's step does it."""

    def keep(self) -> None:
        """Do it without the optimizer: called before a step that can't."""


class _Row(NamedTuple):
    """A parameter in the loop's table."""

    parameter: Tensor
    buffers: Sequence[Tensor]
    numbers: tuple[float, ...]
    place: Part

    def addresses(self) -> tuple[int, ...]:
        p, gradient = self.parameter, self.parameter.grad
        assert gradient is not None
        first, second = (*(buffer.data_ptr() for buffer in self.buffers), 0, 0)[:2]
        return (p.data_ptr(), gradient.data_ptr(), first, second, p.numel(), *self.place)


class OnePass(Optimizer):
    """The step of :class:`SGD` and :class:`AdamW`.

    Attributes:
        around: what the pipeline does around the next update; the step takes it away.
    """

    around: Around | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by their gradients.

        Raises:
            UserError: if the closure, in which Lightning calls callbacks, changes weights of a pipeline.
        """
        around, self.around = self.around, None
        given = [p for group in self.param_groups for p in group["params"]]
        versions, loss = [p._version for p in given], None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if around is not None and versions != [p._version for p in given]:
            raise UserError(
                "weights were changed within the optimizer's step (by a callback's on_before_optimizer_step?), where "
                f"layerpipe2.optim.{type(self).__name__} keeps them; take the optimizer of torch.optim"
            )
        places = {} if around is None else around.places()
        groups = [self._rows(group, places) for group in self.param_groups]
        if None in groups or not places.keys() <= {p for p in given if p.grad is not None}:
            if around is not None:
                around.keep()
            unwrap(super().step)(self)  # without its hooks, which are called around this step
            return loss
        for rows in filter(None, groups):
            self._sweep(rows)
        return loss

    def _rows(self, group: dict[str, Any], places: Mapping[Tensor, Part]) -> list[_Row] | None:
        """The parameters of a group that have a gradient; ``None`` if torch's step must update them."""
        if any(group.get(name) for name in _TORCHS) or any(isinstance(value, Tensor) for value in group.values()):
            return None
        rows, kinds = list[_Row](), set()
        for p in group["params"]:
            if p.grad is not None:
                buffers, numbers = self._row(p, group)
                kinds.add(p.dtype if _swept(p, p.grad, *buffers) else None)
                rows.append(_Row(p, buffers, numbers, places.get(p, Part())))
        return None if None in kinds or len(kinds) > 1 else rows

    def _sweep(self, rows: Sequence[_Row]) -> None:
        table = np.array([row.addresses() for row in rows], dtype=np.int64)
        numbers = np.array([row.numbers for row in rows], dtype=np.float64)
        zero = sweeps.ZEROS[rows[0].parameter.dtype]
        sweeps.loops().step_all(len(rows), table.ctypes.data, numbers.ctypes.data, zero)

    def _row(self, p: Tensor, group: dict[str, Any]) -> tuple[list[Tensor], tuple[float, ...]]:
        """A parameter's buffers, made if need be, and the numbers of its next update."""
        raise NotImplementedError


class SGD(OnePass, torch.optim.SGD):
    """:class:`torch.optim.SGD` in one pass; see the module's text."""

    def _row(self, p: Tensor, group: dict[str, Any]) -> tuple[list[Tensor], tuple[float, ...]]:
        momentum, state = group["momentum"], self.state[p]
        if momentum and state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        numbers = group["lr"], group["weight_decay"], momentum, float(group["nesterov"]), 0.0, 0.0, 0.0, 0.0
        return [state["momentum_buffer"]] if momentum else [], numbers


class AdamW(OnePass, torch.optim.AdamW):
    """:class:`torch.optim.AdamW` in one pass; see the module's text."""

    def _row(self, p: Tensor, group: dict[str, Any]) -> tuple[list[Tensor], tuple[float, ...]]:
        state, rate, (b1, b2) = self.state[p], group["lr"], group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        updates = float(state["step"]) + 1
        corrected = rate / (1 - b1**updates), (1 - b2**updates) ** 0.5
        numbers = *corrected, rate * group["weight_decay"], b1, 1 - b1, b2, 1 - b2, group["eps"]
        return [state["exp_avg"], state["exp_avg_sq"]], numbers

    def _sweep(self, rows: Sequence[_Row]) -> None:
        super()._sweep(rows)
        torch._foreach_add_([self.state[row.parameter]["step"] for row in rows], 1)


def _swept(p: Tensor, *others: Tensor) -> bool:
    """Whether the loop takes a parameter, its gradient and its buffers: the same order in memory, without gaps."""
    if not p.is_cpu or p.dtype not in sweeps.ZEROS or sweeps.loops() is None:
        return False
    dense = p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last)
    kind = p.device, p.dtype, p.layout, p.shape, p.stride()
    return dense and all(kind == (one.device, one.dtype, one.layout, one.shape, one.stride()) for one in others)
