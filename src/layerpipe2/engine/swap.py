"""Run a module with other tensors in the places of its parameters, and put the parameters back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from layerpipe2.errors import UserError


def check_replaceable(stage: nn.Module, index: int) -> None:
    """Refuse a module whose parameters can't be replaced.

    Raises:
        UserError: naming the stage, if it holds a compiled TorchScript module.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in stage.modules()):
        raise UserError(
            f"stage {index} holds a TorchScript module, whose weights can't be delayed; give the original nn.Module"
        )


class ParameterSwap:
    """Every place in ``stage`` that holds one of ``replacements``' parameters.

    The user's own module runs, so its hooks, buffers, modes and Python state work as ever. ``nn.RNNBase`` computes with
    a list of its own, ``_flat_weights``, beside its parameters (``torch.func.functional_call`` misses that one).

    Args:
        stage: the module.
        replacements: parameter -> what stands for it while :meth:`active`.
    """

    def __init__(self, stage: nn.Module, replacements: Mapping[nn.Parameter, nn.Parameter]) -> None:
        self._places: list[tuple[Any, Any, nn.Parameter, nn.Parameter]] = []
        for module in stage.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter in replacements:
                    self._places.append((module._parameters, name, parameter, replacements[parameter]))
            if isinstance(module, nn.RNNBase):
                flat: list[Any] = module._flat_weights
                found = [(i, weight) for i, weight in enumerate(flat) if weight in replacements]
                self._places += [(flat, i, weight, replacements[weight]) for i, weight in found]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within: the replacements stand in the module; after: its parameters."""
        for holder, key, _, replacement in self._places:
            holder[key] = replacement
        try:
            yield
        finally:
            for holder, key, parameter, _ in self._places:
                holder[key] = parameter
