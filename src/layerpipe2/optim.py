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
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.errors import UserError
from layerpipe2.strategies import sweeps

_TORCHS = ("maximize", "foreach", "fused", "capturable", "differentiable", "amsgrad", "dampening")
"""Settings that are left to torch, if they are given."""
_PLAIN = (Tensor, nn.Parameter)
"""Types of tensors whose memory is their own; a subclass may have none."""


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

    def parts(self) -> Mapping[Tensor, Part]:
        """Where that of each delayed parameter takes place, if the optimizer's step does it."""

    def keep(self) -> None:
        """Do it without the optimizer: called before a step that can't."""


class _Row(NamedTuple):
    """A parameter in the loop's table."""

    parameter: Tensor
    gradient: Tensor
    buffers: Sequence[Tensor]
    numbers: tuple[float, ...]
    part: Part

    def addresses(self) -> tuple[int, ...]:
        first, second = (*(buffer.data_ptr() for buffer in self.buffers), 0, 0)[:2]
        p = self.parameter
        return (p.data_ptr(), self.gradient.data_ptr(), first, second, p.numel(), *self.part)


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
            UserError: if the closure changes weights of a pipeline, or the step is to be differentiated.
        """
        around, self.around = self.around, None
        given = [p for group in self.param_groups for p in group["params"]]
        versions, loss = [p._version for p in given], None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check(around is not None and versions != [p._version for p in given])
        parts = {} if around is None else around.parts()
        groups = [self._rows(group, parts) for group in self.param_groups]
        moving = {p for p in given if p.grad is not None}
        if None in groups or len({*given}) < len(given) or not parts.keys() <= moving:
            if around is not None:
                around.keep()
            unwrap(super().step)(self)  # without its hooks, which are called around this step
            return loss
        for rows in filter(None, groups):
            self._sweep(rows)
        return loss

    def _check(self, changed: bool) -> None:
        name = type(self).__name__
        if changed:
            raise UserError(
                "weights were changed within the optimizer's step (by its closure?), where "
                f"layerpipe2.optim.{name} keeps them; take the optimizer of torch.optim"
            )
        if any(group.get("differentiable") for group in self.param_groups):
            raise UserError(f"layerpipe2.optim.{name} can't be differentiated; take the optimizer of torch.optim")

    def _rows(self, group: dict[str, Any], parts: Mapping[Tensor, Part]) -> list[_Row] | None:
        """The parameters of a group that have a gradient; ``None`` if torch's step must update them."""
        if any(group.get(name) for name in _TORCHS) or any(isinstance(value, Tensor) for value in group.values()):
            return None
        moving = [(p, p.grad) for p in group["params"] if p.grad is not None]
        if len({p.dtype for p, _ in moving}) > 1 or not all(_swept(*pair) for pair in moving):
            return None  # before any buffer is made: torch's step makes others
        rows = [_Row(p, g, *self._row(p, group), parts.get(p, Part())) for p, g in moving]
        return rows if all(_swept(row.parameter, *row.buffers) for row in rows) else None

    def _sweep(self, rows: Sequence[_Row]) -> None:
        table = np.array([row.addresses() for row in rows], dtype=np.int64)
        numbers = np.array([row.numbers for row in rows], dtype=np.float64)
        zero = sweeps.ZEROS[rows[0].parameter.dtype]
        sweeps.loops().step_all(len(rows), table.ctypes.data, numbers.ctypes.data, zero)
        torch.autograd.graph.increment_version([row.parameter for row in rows])

    def _row(self, p: Tensor, group: dict[str, Any]) -> tuple[list[Tensor], tuple[float, ...]]:
        """A parameter's buffers, made if need be, and the numbers of its next update."""
        raise NotImplementedError


class SGD(OnePass, torch.optim.SGD):
    """:class:`torch.optim.SGD` in one pass; see the module's text."""

    def _row(self, p: Tensor, group: dict[str, Any]) -> tuple[list[Tensor], tuple[float, ...]]:
        momentum, state = group["momentum"], self.state[p] if group["momentum"] else {}
        if momentum and state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        numbers = group["lr"], group["weight_decay"], momentum, float(group["nesterov"]), 0.0, 0.0, 0.0, 0.0
        return [state["momentum_buffer"]] if momentum else [], numbers


class AdamW(OnePass, torch.optim.AdamW):
    """:class:`torch.optim.AdamW` in one pass; see the module's text."""

    def _row(self, p: Tensor, group: dict[str, Any]) -> tuple[list[Tensor], tuple[float, ...]]:
        state, rate, (b1, b2) = self.state[p], group["lr"], group["betas"]
        if not state:
            counts = torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32
            state["step"] = torch.zeros((), dtype=counts, device="cpu")
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
    """Whether the loop takes tensors like a parameter: plain ones, in the same order in memory, without gaps."""
    if not p.is_cpu or p.dtype not in sweeps.ZEROS or sweeps.loops() is None:
        return False
    if not all(type(one) in _PLAIN and one.layout is torch.strided and not one.is_neg() for one in (p, *others)):
        return False
    dense = p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last)
    kind = p.device, p.dtype, p.shape, p.stride()
    return dense and all(kind == (one.device, one.dtype, one.shape, one.stride()) for one in others)


ONE_PASS = (SGD, AdamW)
"""Those whose step is nothing else than :meth:`OnePass.step`: a subclass may do more in its own."""
