"""Optimizers that a pipeline can't use, found when training begins and in their first step."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.errors import UserError


def check_optimizers(optimizers: Iterable[Optimizer]) -> None:
    """Refuse optimizers whose step is to be differentiated.

    Raises:
        UserError: saying so.
    """
    for optimizer in optimizers:
        if any(group.get("differentiable") for group in optimizer.param_groups):
            raise UserError(
                f"{type(optimizer).__name__}(differentiable=True) would differentiate its own step, which changes "
                "parameters in place; leave differentiable out"
            )


def first_step(optimizer: Optimizer | Any) -> None:
    """One step, with a closure that computes nothing and looks whether a network should have been evaluated.

    An ordinary optimizer calls its closure before it does anything. One like SAM moves the weights first, or drops the
    gradients: it would go on with the old gradients or with none.

    Args:
        optimizer: Lightning's wrapper as well.

    Raises:
        UserError: if it does.
    """
    plain: Optimizer = getattr(optimizer, "optimizer", optimizer)
    if "closure" not in inspect.signature(type(plain).step).parameters:
        optimizer.step()
        return
    parameters = [p for group in plain.param_groups for p in group["params"]]
    seen: list[Any] = []

    def look() -> None:
        seen[:] = [_state(p) for p in parameters]

    def closure() -> Any:
        if seen != [_state(p) for p in parameters]:
            raise UserError(
                f"{type(plain).__name__} evaluates the network again within an update, at other weights (SAM?), which "
                "a pipeline can't do; take an optimizer whose step() needs no closure"
            )

    look()

    begun = False

    def begin(*_: Any) -> None:
        # Others' hooks may change weights and gradients before the step begins; a base class's step is within it.
        nonlocal begun
        if not begun:
            begun = True
            look()

    hook = plain.register_step_pre_hook(begin) if hasattr(plain, "_optimizer_step_pre_hooks") else None
    try:
        optimizer.step(closure)
    finally:
        if hook is not None:
            hook.remove()


def _state(parameter: Tensor) -> tuple[Any, ...]:
    """Differs once the weights do, also through ``.data``, or the gradient is gone; a sum takes no memory."""
    plain = parameter.is_floating_point() and parameter.layout is torch.strided and not parameter.is_meta
    total = str(float(parameter.detach().sum(dtype=torch.float64))) if plain else ""  # NaN as text equals itself
    return parameter.grad is None, parameter.data_ptr(), parameter._version, total
