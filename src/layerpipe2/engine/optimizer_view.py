"""What a strategy may ask of the optimizer: its settings and buffers, flat like the weights of one stage."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.engine.layout import Layout


class FlatOptimizer:
    """An optimizer as one stage's strategy sees it: vectors (N,) in the order of its flat weights, zero in between.

    Args:
        optimizer: over the stage's parameters, or those of all stages; Lightning's wrapper as well.
        layout: where each parameter stands.
        like: gives type, device and size (N,).
    """

    def __init__(self, optimizer: Optimizer | Any, layout: Layout, like: Tensor) -> None:
        self._optimizer: Optimizer = getattr(optimizer, "optimizer", optimizer)
        self._layout, self._like = layout, like

    def setting(self, name: str) -> Tensor:
        """A setting of the parameter groups; ``lr`` is negative where the optimizer maximizes."""
        flat = torch.zeros_like(self._like)
        groups = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        for slot in self._layout.slots:
            if slot.parameter in groups:
                slot.view(flat).fill_(_signed(groups[slot.parameter], name))
        return flat

    def state(self, name: str) -> Tensor:
        """A buffer of the optimizer's state; zero for parameters of which it has none."""
        flat = torch.zeros_like(self._like)
        for slot in self._layout.slots:
            buffers: dict[str, Tensor] = self._optimizer.state.get(slot.parameter) or {}
            if name in buffers:
                slot.view(flat).copy_(buffers[name])
        return flat


def _signed(group: dict[str, Any], name: str) -> Any:
    value = group[name]
    return -value if name == "lr" and group.get("maximize") else value
