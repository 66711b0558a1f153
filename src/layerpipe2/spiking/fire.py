"""Neurons over all time steps at once: one filter for the forward pass and, backwards in time, for the gradient.

The recursions of :mod:`layerpipe2.spiking.neuron` are two one-pole filters in a row, y(t) = x(t) + decay y(t - 1). The
transpose of that linear map is y(t) = x(t) + decay y(t + 1): the same filter, run from the last step to the first. So
:func:`leak` computes both passes, in place and outside of autograd, which sees one function with one saved tensor, the
membrane, however many time steps there are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from layerpipe2.spiking.neuron import Neuron, check

_PIECE = 2**16
"""Numbers that a thread works on at a time, with all its temporary ones in the cache."""


def leak(y: Tensor, decay: float, *, reverse: bool = False, keep: Callable[[int], Tensor] | None = None) -> Tensor:
    """Filter in place, ``y(t) += decay y(t - 1)``, or ``y(t) += decay keep(t) y(t + 1)`` in ``reverse``.

    Args:
        y: (T, ...), overwritten and returned.
        decay: the pole; 0 leaves ``y`` as it is.
        reverse: from the last time step to the first.
        keep: time step -> factors of the pole, of the shape of one step.
    """
    if decay:
        rows = y.unbind()
        order = range(len(rows) - 2, -1, -1) if reverse else range(1, len(rows))
        for t in order:
            before = rows[t + 1 if reverse else t - 1]
            if keep is None:
                rows[t].add_(before, alpha=decay)
            else:
                rows[t].addcmul_(before, keep(t), value=decay)
    return y


def fire(neuron: Neuron, x: Tensor) -> Tensor:
    """Run neurons from rest over all time steps: inputs (T, ...) -> spikes (T, ...), 0 or 1 in the type of ``x``.

    Equals :func:`layerpipe2.spiking.unrolled`, which is slower.

    Raises:
        UserError: without a time step, or if not of floating point.
    """
    check(x)
    spikes: Tensor = _Fire.apply(x, neuron)  # type: ignore[no-untyped-call]
    return spikes


def integrate(neuron: Neuron, x: Tensor) -> Tensor:
    """Return the membrane of neurons that never fire: inputs (T, ...) -> V (T, ...), the plain filter.

    Raises:
        UserError: without a time step, or if not of floating point.
    """
    check(x)
    membrane: Tensor = _Integrate.apply(x, neuron, False)  # type: ignore[no-untyped-call]
    return membrane


def recursion(neuron: Neuron, x: Tensor, membrane: Tensor, spikes: Tensor | None = None) -> None:
    """Run neurons forward, step by step, so that a step's few operations find their tensors in the cache.

    Args:
        neuron: their constants.
        x: inputs (T, ...).
        membrane: receives V (T, ...), contiguous; may be ``x`` itself.
        spikes: receives the spikes (T, ...); None: they aren't wanted.
    """
    inputs = leak(membrane.copy_(x), neuron.synapse_decay) if neuron.synapse_decay else x
    if spikes is None:
        spikes = torch.empty_like(membrane[0]).expand_as(membrane)  # the last step's alone
    rows = list(zip(inputs.unbind(), membrane.unbind(), spikes.unbind(), strict=True))
    for t, (current, v, s) in enumerate(rows):
        if t == 0:
            v.copy_(current)
        else:
            _, before, fired = rows[t - 1]
            kept = torch.addcmul(before, before, fired, value=-1) if neuron.reset == "zero" else before
            torch.add(current, kept, alpha=neuron.membrane_decay, out=v)
            if neuron.reset == "subtract":
                v.sub_(fired, alpha=neuron.threshold)
        torch.gt(v, neuron.threshold, out=s)


def adjoint(neuron: Neuron, membrane: Tensor, gradient: Tensor, found: Tensor) -> Tensor:
    """Write the inputs' gradient (T, ...), from the spikes', into ``found``; that may be V unless reset to zero."""
    _through_spikes(neuron, membrane, gradient, found)

    def silent(t: int) -> Tensor:
        return torch.le(membrane[t], neuron.threshold).to(membrane.dtype)

    leak(found, neuron.membrane_decay, reverse=True, keep=silent if neuron.reset == "zero" else None)
    return leak(found, neuron.synapse_decay, reverse=True)


def _through_spikes(neuron: Neuron, membrane: Tensor, gradient: Tensor, found: Tensor) -> None:
    """Write the membrane's gradient by way of the same step's spikes, in pieces that fit into the cache."""
    piece = _PIECE * torch.get_num_threads()
    parts = (torch.split(t.reshape(-1), piece) for t in (membrane, gradient, found))
    for v, g, out in zip(*parts, strict=True):
        torch.mul(neuron.derivative(v), g, out=out)


class _Fire(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, neuron: Neuron) -> Tensor:
        membrane, spikes = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
        recursion(neuron, x, membrane, spikes)
        ctx.neuron = neuron
        ctx.save_for_backward(membrane)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (membrane,) = ctx.saved_tensors
        return adjoint(ctx.neuron, membrane, gradient, torch.empty_like(membrane)), None


class _Integrate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, neuron: Neuron, reverse: bool) -> Tensor:
        ctx.neuron, ctx.reverse = neuron, reverse
        y = leak(x.clone(memory_format=torch.contiguous_format), neuron.synapse_decay, reverse=reverse)
        return leak(y, neuron.membrane_decay, reverse=reverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Integrate.apply(gradient, ctx.neuron, not ctx.reverse), None, None  # type: ignore[no-untyped-call]
