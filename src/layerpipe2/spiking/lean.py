"""Batch normalisation with neurons behind it, and pooling of spikes, that keep little for the backward pass.

Together they keep one number per neuron and time step, the normalisation's input, which its gradient needs; apart, the
membrane as well. The backward pass computes the membrane again from that input: the normalisation is ``scale x +
shift`` with two numbers per channel, those of the forward pass even where recalled weights do the rest. They depend on
the batch, as activations do. On a CPU this gives the same bits, so it is done there alone.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from layerpipe2.spiking.fire import adjoint, recursion
from layerpipe2.spiking.neuron import Neuron

View = Callable[[Tensor], Tensor]


def can_fire_normalised(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Say whether :func:`fire_normalised` equals ``norm`` and neurons, bit by bit."""
    exact = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    usual = norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
    return exact and usual and x.dtype == norm.weight.dtype and x.numel() > x.shape[1]


def fire_normalised(neuron: Neuron, norm: nn.BatchNorm2d, x: Tensor, over_time: View) -> Tensor:
    """Return spikes (T N, C, H, W) of neurons behind a normalisation of ``x``.

    Args:
        neuron: the constants.
        norm: the normalisation, in training; its running statistics are brought up to date.
        x: its inputs (T N, C, H, W), or (N, C, H, W) if they are the same in all time steps.
        over_time: normalised inputs -> (T, N, C, H, W).
    """
    spikes: Tensor = _NormalisedFire.apply(x, norm.weight, norm.bias, neuron, norm, over_time)  # type: ignore[no-untyped-call]
    return spikes


class _NormalisedFire(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, neuron: Neuron, norm: nn.BatchNorm2d, over_time: View
    ) -> Tensor:
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        statistics = norm.running_mean, norm.running_var
        momentum = cast(float, norm.momentum)
        y, mean, rstd = torch.native_batch_norm(x, weight, bias, *statistics, True, momentum, norm.eps)
        scale = weight * rstd
        shift = _evaluated(x.new_zeros(1, len(bias)), scale, bias, mean).flatten()  # where x is 0
        ctx.save_for_backward(x, weight, mean, rstd, scale, shift)
        ctx.neuron, ctx.eps, ctx.over_time = neuron, norm.eps, over_time
        inputs = over_time(y)
        spikes = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        recursion(neuron, inputs, _room(inputs), spikes)
        return spikes.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, scale, shift = ctx.saved_tensors
        inputs = ctx.over_time(_evaluated(x, scale, shift, torch.zeros_like(shift)))
        membrane = _room(inputs)
        recursion(ctx.neuron, inputs, membrane)
        found = torch.empty_like(membrane) if ctx.neuron.reset == "zero" else membrane
        found = adjoint(ctx.neuron, membrane, gradient.reshape(membrane.shape), found)
        found = found.flatten(0, 1) if found.numel() == x.numel() else found.sum(0)
        backward, needed = torch.ops.aten.native_batch_norm_backward, ctx.needs_input_grad[:3]
        return *backward(found, x, weight, None, None, mean, rstd, True, ctx.eps, needed), None, None, None


def _evaluated(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor) -> Tensor:
    """Return ``scale (x - mean) + shift`` by the operation that normalises in training, so rounded as there."""
    y: Tensor = torch.native_batch_norm(x, scale, shift, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]
    return y


def _room(inputs: Tensor) -> Tensor:
    """Return memory for the membrane: that of the inputs, unless all steps share it."""
    return inputs if inputs.is_contiguous() else torch.empty_like(inputs, memory_format=torch.contiguous_format)


class SpikePool(nn.Module):
    """2x2 max pooling of spikes (N, C, H, W), 0 or 1: ``nn.MaxPool2d(2)``, keeping 2 bytes for each of its results."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch."""
        pooled: Tensor = _SpikePool.apply(x)  # type: ignore[no-untyped-call]
        return pooled


class _SpikePool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns, pixels = height // 2 * 2, width // 2 * 2, height * width
        # Every pixel has a rank, the earlier the higher, and a spike lifts it above all pixels without one: of a
        # window the largest is the first spike or else the first pixel, as in max_pool2d.
        rank = torch.arange(pixels, 0, -1, device=x.device, dtype=torch.float32).view(height, width)
        best = torch.add(rank[:rows, :columns].contiguous(), x[..., :rows, :columns], alpha=pixels)
        best = torch.maximum(best[..., ::2, :], best[..., 1::2, :])
        best = torch.maximum(best[..., ::2], best[..., 1::2])
        pooled = torch.gt(best, pixels, out=torch.empty_like(best, dtype=x.dtype))
        place = best.neg_().add_(pooled, alpha=pixels).add_(pixels)
        ctx.shape = x.shape
        ctx.save_for_backward(place.to(torch.int16 if pixels <= 2**15 else torch.int32))
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (place,) = ctx.saved_tensors
        unread, two, zero, one = gradient.new_empty(ctx.shape), (2, 2), (0, 0), (1, 1)
        pool_backward = torch.ops.aten.max_pool2d_with_indices_backward
        found: Tensor = pool_backward(gradient, unread, two, two, zero, one, False, place.long())
        return found
