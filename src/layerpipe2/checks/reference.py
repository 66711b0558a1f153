"""Delayed training by its definition: one plain loop over mini-batches that shares nothing with the engine.

All weights that forward passes ever read stay in a list. Every layer runs its backward pass by itself, at the input
that it saw and with the weights that the strategy recalls: the layers here are linear in their weights, so that their
gradients depend on nothing else.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from layerpipe2.strategies import Strategy, begin, count

Batch = tuple[Tensor, Tensor]
Trace = list[list[Tensor]]
"""After every update, for every stage: parameters and buffers in one vector, float64, on the CPU."""


def train(
    stages: list[nn.Sequential], delays: Sequence[int], strategy: Strategy, batches: list[Batch], *, half: bool = False
) -> Trace:
    """Train ``stages``; ``half`` casts activations, and all weights but BatchNorm's, to bfloat16."""
    compute = torch.bfloat16 if half else None
    optimizers = [make_optimizer(stage.parameters()) for stage in stages]
    states = [begin(strategy, _flat(stage), d) if d else {} for stage, d in zip(stages, delays, strict=True)]
    read: list[list[Tensor]] = [[] for _ in stages]  # [k][t]: of the forward pass that begins after t updates
    trace: Trace = []
    for t, (x, y) in enumerate(batches):
        x, inputs = x.to(compute or x.dtype), []
        for k, stage in enumerate(stages):
            latest = _flat(stage)
            read[k].append(strategy.forward(states[k], latest, None).clone() if delays[k] else latest)  # type: ignore[arg-type]
            for layer, w in zip(stage, _by_layer(stage, read[k][max(0, t - delays[k])], compute), strict=True):
                inputs.append(x)
                x = functional_call(layer, w, (x,)).detach()
        outputs = (x if compute is None else x.float()).requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(outputs, y), outputs)[0].to(x.dtype)
        for k, stage in reversed(list(enumerate(stages))):
            latest, used, found = _flat(stage), read[k][max(0, t - delays[k])], list[Tensor]()
            recalled = strategy.backward(states[k], latest, used) if delays[k] else used
            for layer, w in reversed(list(zip(stage, _by_layer(stage, recalled, compute), strict=True))):
                gradient, own = _backward(layer, w, inputs.pop(), gradient)
                found = own + found
            whole = torch.cat(found)
            whole = strategy.gradient(states[k], whole, latest, used) if delays[k] else whole
            for p, g in zip(stage.parameters(), _split(stage, whole), strict=True):
                p.grad = g
            optimizers[k].step()
            if delays[k]:
                strategy.update(states[k], latest, _flat(stage))  # none of those here changes it
                count(states[k], delays[k])
        trace.append(snapshot(stages))
    return trace


def plain(stages: Sequence[nn.Module], batches: Sequence[Batch]) -> Trace:
    """Train without delays, as any tutorial does."""
    network, trace = nn.Sequential(*stages), []
    optimizer = make_optimizer(network.parameters())
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        trace.append(snapshot(stages))
    return trace


def make_optimizer(parameters: Iterable[nn.Parameter], *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Make SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9, fused=fused)


def snapshot(stages: Iterable[nn.Module]) -> list[Tensor]:
    """Copy every stage's parameters and buffers of floating point into one vector, float64, on the CPU."""
    held = [[t.detach().flatten() for t in s.state_dict().values() if t.is_floating_point()] for s in stages]
    return [torch.cat(tensors).to("cpu", torch.float64, copy=True) for tensors in held]


def _backward(layer: nn.Module, w: dict[str, Tensor], x: Tensor, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the gradients of the input and, flat and in the parameters' own type, of the weights."""
    leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = x.detach().requires_grad_()
    outputs = functional_call(layer, leaves | buffers, (x,))
    first, *others = torch.autograd.grad(outputs, [x, *leaves.values()], gradient)
    return first, [g.flatten().to(p.dtype) for g, p in zip(others, layer.parameters(), strict=True)]


def _flat(stage: nn.Module) -> Tensor:
    return parameters_to_vector(stage.parameters()).detach().clone()


def _split(stage: nn.Module, flat: Tensor) -> list[Tensor]:
    parts = torch.split(flat, [p.numel() for p in stage.parameters()])
    return [part.view_as(p) for part, p in zip(parts, stage.parameters(), strict=True)]


def _by_layer(stage: nn.Sequential, flat: Tensor, compute: torch.dtype | None) -> list[dict[str, Tensor]]:
    """Return a stage's weights as a dictionary per layer, cast where they are to be."""
    pieces, found = iter(_split(stage, flat)), []
    for layer in stage:
        dtype = flat.dtype if isinstance(layer, nn.BatchNorm2d) else compute or flat.dtype
        found.append({name: next(pieces).to(dtype) for name, _ in layer.named_parameters()})
    return found
