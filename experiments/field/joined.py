"""Several optimizers as one: torch's Muon is for matrices alone, and the rest of a network needs another."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


class Joined(Optimizer):
    """What ``parts`` do, each with its own parameter groups; settings, state and checkpoints are in one place.

    Args:
        parts: optimizers over different parameters.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        groups = [{**group, "part": i} for i, part in enumerate(parts) for group in part.param_groups]
        super().__init__(groups, {})
        self._parts = list(parts)
        for part in parts:
            part.param_groups = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for i, part in enumerate(self._parts):  # a pipeline cuts the groups, a resume replaces them
            part.param_groups = [group for group in self.param_groups if group["part"] == i]
            part.state = self.state
            part.step()
        return loss


def by_shape(
    parameters: Iterable[nn.Parameter],
    matrices: Callable[[list[Tensor]], Optimizer],
    rest: Callable[[list[Tensor]], Optimizer],
) -> Joined:
    """``matrices`` for parameters of two dimensions, ``rest`` for the others."""
    given: list[Tensor] = list(parameters)
    kinds = (matrices, [p for p in given if p.ndim == 2]), (rest, [p for p in given if p.ndim != 2])
    return Joined([make(own) for make, own in kinds if own])


def muon(parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> Joined:
    """Muon for matrices, AdamW for the rest, with one rate: Muon's steps have the root mean square of AdamW's."""
    common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    return by_shape(
        parameters,
        lambda own: Muon(own, momentum=momentum, adjust_lr_fn="match_rms_adamw", **common),
        lambda own: AdamW(own, **common),
    )
