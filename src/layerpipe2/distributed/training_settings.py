"""What must be equal in all processes of one training, in words: they are compared before it starts."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.optim import Optimizer

from layerpipe2.engine.execution import StagedModule
from layerpipe2.history import WeightHistory


def training_settings(module: StagedModule, network: str, optimizer: Optimizer) -> dict[str, str]:
    """Name -> value; ``network`` is its :func:`fingerprint`, ``optimizer`` that of any stage."""
    trainer = module.trainer
    return {
        "network": network,
        "delays": str(module.delays.per_stage),
        "weight history": _method(module.history),
        **{f"optimizer's {name}": str(value) for name, value in optimizer.defaults.items()},
        "drain, clipping, seed of the stages": f"{module.drain}, {module.gradient_clip_norm}, {module.stage_seed}",
        "mini-batches": f"{trainer.num_training_batches} for {trainer.max_epochs} epochs",
    }


def fingerprint(stages: nn.Module) -> str:
    """Names, shapes and types of all weights, in short."""
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in stages.state_dict().items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]


def _method(history: WeightHistory) -> str:
    """A weight history and its constants, such as the decays."""
    state = history.init(torch.zeros(1), 3)
    constants = [state[name].tolist() for name in history.constants if name in state]
    return f"{type(history).__name__} of {history.consumes} {constants}"
