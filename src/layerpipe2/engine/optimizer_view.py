"""What a strategy may ask of the optimizer: its settings and buffers, flat like the weights of one stage."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from layerpipe2.engine.layout import Layout
from layerpipe2.errors import UserError


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

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self._optimizer).__name__

    def rate(self) -> Tensor:
        """The learning rates, negative where the optimizer maximizes."""
        return self._filled(lambda group: -group["lr"] if group.get("maximize") else group["lr"])

    def setting(self, name: str) -> Tensor:
        """A numeric setting of the parameter groups, or an entry of one that has several, as ``betas.0``.

        Raises:
            UserError: if they have none of this name.
        """
        return self._filled(lambda group: self._number(group, name))

    def state(self, name: str) -> Tensor:
        """A buffer of the optimizer's state; zero for parameters that are frozen or were never updated.

        Raises:
            UserError: if the optimizer keeps others, but none of this name.
        """
        flat = torch.zeros_like(self._like)
        for slot in self._layout.slots:
            buffers: dict[str, Any] = self._optimizer.state.get(slot.parameter) or {}
            if buffers and name not in buffers:
                raise self._unknown("buffer", name, buffers)
            if buffers.get(name) is not None and slot.parameter.requires_grad:
                slot.view(flat).copy_(buffers[name])
        return flat

    def _filled(self, value: Callable[[dict[str, Any]], Any]) -> Tensor:
        flat = torch.zeros_like(self._like)
        groups = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        for slot in self._layout.slots:
            if slot.parameter in groups:
                slot.view(flat).fill_(value(groups[slot.parameter]))
        return flat

    def _number(self, group: dict[str, Any], name: str) -> Any:
        several = {key: value for key, value in group.items() if isinstance(value, tuple | list) and key != "params"}
        entries = {f"{key}.{i}": one for key, value in several.items() for i, one in enumerate(value)}
        numbers = {key: value for key, value in (group | entries).items() if isinstance(value, int | float | Tensor)}
        if name not in numbers:
            raise self._unknown("number", name, numbers)
        return numbers[name]

    def _unknown(self, what: str, name: str, known: dict[str, Any]) -> UserError:
        return UserError(
            f"the strategy asks {self.kind} for a {what} '{name}', which it hasn't; it has {', '.join(known)}"
        )


def rates_of(optimizer: Optimizer | Any) -> list[float]:
    """The learning rate of every group."""
    return [float(group["lr"]) for group in getattr(optimizer, "optimizer", optimizer).param_groups if "lr" in group]
