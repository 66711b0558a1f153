"""How far a training is from instability: its learning rate times the loss's largest curvature, against theory.

The curvature is the largest eigenvalue of the Hessian of one mini-batch's loss in all trainable weights, at the latest
ones, by the Lanczos method on Hessian-vector products. For Adam it is that of ``P^(-1/2) H P^(-1/2)`` with
``P = sqrt(v) + eps`` (Cohen et al. 2022, *Adaptive gradient methods at the edge of stability*): the preconditioner is
diagonal, as the delays are, so that the argument of :mod:`layerpipe2.theory.stability` holds for it unchanged.
Weight decay is left out; its curvature is not delayed, and small.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD, Adam, AdamW, Optimizer

from layerpipe2.engine.layout import trainable
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.replay import copied
from layerpipe2.theory.stability import largest_stable_shared_step, largest_stable_step

PRODUCTS = 16
"""Hessian-vector products of one measurement; the largest eigenvalue then stands to a few per cent."""
_LONGEST = 256
"""Longest delay whose polynomial's roots are found in a second."""


class NotMeasured(Exception):
    """The stability of this training can't be measured; the message says why."""


@dataclass(frozen=True)
class Stability:
    """One measurement, or the means of several.

    Attributes:
        curvature: largest eigenvalue of the (preconditioned) Hessian.
        step: learning rate x curvature, without unit; of Adam with the rate ``lr (1 - beta1)``.
        bound: largest step that is stable whatever stage the curvature is in: that of the largest delay.
        shared_bound: largest stable step of the eigenvector itself, from its share in each stage.
        shares: squared norm of the eigenvector's part in each stage; their sum is 1.
    """

    curvature: float
    step: float
    bound: float
    shared_bound: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Descent:
    """An optimizer near a minimum: heavy-ball (or Nesterov's) descent, after scaling each weight.

    Attributes:
        rate: learning rate.
        momentum: m.
        nesterov: Nesterov's form.
        scales: ``P^(-1/2)`` of each parameter, or None for P = 1.
    """

    rate: float
    momentum: float
    nesterov: bool = False
    scales: list[Tensor] | None = None


def descent_of(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> Descent:
    """What ``optimizer`` does to ``parameters``.

    Raises:
        NotMeasured: if the theory does not know it.
    """
    kind = type(optimizer)
    names = {SGD: ("momentum", "nesterov", "dampening"), Adam: ("betas", "eps"), AdamW: ("betas", "eps")}.get(kind)
    if names is None:
        raise NotMeasured(f"the theory knows SGD and Adam, not {kind.__name__}")
    groups = optimizer.param_groups
    if any(group["maximize"] or group.get("amsgrad") for group in groups):
        raise NotMeasured("the theory knows no maximize or amsgrad")
    if len({(float(group["lr"]), *(group[name] for name in names)) for group in groups}) > 1:
        raise NotMeasured("groups of parameters have different rates")
    group = groups[0]
    rate = float(group["lr"])
    if kind is SGD:
        momentum = group["momentum"]
        return Descent(rate * (1 - group["dampening"] if momentum else 1), momentum, group["nesterov"])
    first, second = group["betas"]
    scales = []
    for parameter in parameters:
        state = optimizer.state.get(parameter)
        if not state:
            raise NotMeasured("a parameter has never had a gradient, so that Adam has no scale for it")
        square = state["exp_avg_sq"] / (1 - second ** float(state["step"]))
        scales.append((square.sqrt() + group["eps"]).rsqrt())
    return Descent(rate * (1 - first), first, scales=scales)


def measure_stability(module: PipelinedModule, optimizer: Optimizer, x: Tensor, y: Tensor) -> Stability:
    """The stability of the training ``module`` is in, on one mini-batch, without touching it.

    Raises:
        NotMeasured: if the optimizer is none that the theory knows, a layer has no second derivative, or the loss has
            no finite curvature.
    """
    engine = module.engine
    delays = engine.delays.per_stage
    if max(delays) > _LONGEST:
        raise NotMeasured(f"the largest delay is {max(delays)}; bounds are computed up to {_LONGEST}")
    own = [p for stage in engine.stages for p in stage.parameters() if trainable(p)]
    descent = descent_of(optimizer, own)
    stages = copied(engine.stages)
    try:
        product, sizes = hessian_product(stages, x.clone(), y.clone(), copy.deepcopy(module.loss), descent.scales)
        curvature, vector = largest_eigenpair(product, sum(sizes), like=own[0])
    except RuntimeError as error:  # an operation without second derivative; too little memory
        raise NotMeasured(str(error).splitlines()[0]) from None
    if not math.isfinite(curvature):
        raise NotMeasured("the loss has no finite curvature")
    shares = [float(part.square().sum()) for part in torch.split(vector, sizes)]
    how = (descent.momentum, descent.nesterov)
    return Stability(
        curvature,
        descent.rate * curvature,
        largest_stable_step(max(delays), *how),
        largest_stable_shared_step(shares, delays, *how),
        tuple(shares),
    )


def hessian_product(
    stages: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    scales: Sequence[Tensor] | None = None,
) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """``v -> D H D v`` for flat vectors over all trainable weights, and how many each stage has.

    Args:
        stages: with the weights at which H is taken; their buffers change.
        x: inputs (B, ...); y: targets.
        loss: scalar of outputs and targets.
        scales: the diagonal D, one tensor per trainable parameter; None for D = 1.
    """
    parameters = [p for stage in stages for p in stage.parameters() if trainable(p)]
    sizes = [sum(p.numel() for p in stage.parameters() if trainable(p)) for stage in stages]
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        for stage in stages:
            x = stage(x)
        value = loss(x, y)
        slopes = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    scale = None if scales is None else torch.cat([part.flatten() for part in scales])

    def product(v: Tensor) -> Tensor:
        scaled = v if scale is None else v * scale
        parts = torch.split(scaled, [p.numel() for p in parameters])
        along = [(g * part.view_as(g)).sum() for g, part in zip(slopes, parts, strict=True) if g is not None]
        for p in parameters:
            p.grad = None
        # Not grad(..., parameters): it would leave out, in silence, what refuses to be differentiated twice.
        torch.stack(along).sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        return torch.cat(flat) if scale is None else torch.cat(flat) * scale

    return product, sizes


def largest_eigenpair(
    product: Callable[[Tensor], Tensor], size: int, like: Tensor, products: int = PRODUCTS
) -> tuple[float, Tensor]:
    """Largest eigenvalue of a symmetric matrix (not the largest in modulus) and its unit eigenvector (size,).

    Lanczos with full reorthogonalisation, from a vector that is always the same.

    Args:
        product: matrix times vector.
        size: rows of the matrix.
        like: gives type and device.
        products: how often ``product`` is called at most.
    """
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    basis, diagonal, beside = [start / start.norm()], list[float](), list[float]()
    for _ in range(min(products, size)):
        w = product(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        for _ in range(2):
            for known in basis:
                w = w - (w @ known) * known
        rest = float(w.norm())
        if not rest > torch.finfo(w.dtype).eps * max(map(abs, [*diagonal, *beside])):  # an invariant space, or NaN
            break
        beside.append(rest)
        basis.append(w / rest)
    n = len(diagonal)
    if not all(map(math.isfinite, diagonal)):
        return math.nan, basis[0]
    small = np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1)
    values, vectors = np.linalg.eigh(small)
    vector = sum(float(c) * b for c, b in zip(vectors[:, -1], basis, strict=False))
    assert isinstance(vector, Tensor)
    return float(values[-1]), vector / vector.norm()
