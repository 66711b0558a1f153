"""A network cut into pipeline stages, with its delays and its weight history: what a run trains."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from layerpipe2 import networks
from layerpipe2.data import describe
from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.history import StashFirst, WeightHistory, make_history
from layerpipe2.runs.config import RunConfig
from layerpipe2.stages import partition


@dataclass(frozen=True)
class Plan:
    """A network cut into stages, with its delays and its weight history.

    Attributes:
        config: the configuration with ``group_size`` and ``convention`` of the sequential baseline filled in.
        units: number of units, which stages group.
        stages: the pipeline's stages, input side first.
    """

    config: RunConfig
    units: int
    stages: list[nn.Sequential]
    delays: Delays
    history: WeightHistory

    def warmed_up(self, steps_per_epoch: int) -> Plan:
        """The plan with exact weights for the first ``stash_epochs`` epochs, if the configuration asks for them."""
        updates = round(self.config.stash_epochs * steps_per_epoch)
        if not updates or self.history.exact:
            return self
        return replace(self, history=StashFirst(then=self.history, updates=updates))

    @property
    def parameters_per_stage(self) -> list[int]:
        """Number of parameters of each stage."""
        return [sum(p.numel() for p in stage.parameters()) for stage in self.stages]

    def history_copies(self, history: WeightHistory | None = None) -> float:
        """Modelled hardware memory: parameter copies beside the latest weights, as multiples of the network's size."""
        history = history or self.history
        config, sizes = self.config, self.parameters_per_stage
        buffer = config.optimizer == "adamw" or (config.momentum > 0 and not config.nesterov)
        copies = [history.copies(d, momentum_buffer=buffer) for d in self.delays.per_stage]
        held = [c * n for c, n in zip(copies, sizes, strict=True)]
        return sum(held) / sum(sizes)


def plan_from(config: RunConfig) -> Plan:
    """The plan without weights in memory: parameters are on torch's meta device.

    Raises:
        UserError: as :func:`make_plan`, and on an unknown data set.
    """
    spec = describe(config.dataset)
    with torch.device("meta"):  # only shapes are needed
        return make_plan(config, spec.input_shape, spec.num_classes)


def make_plan(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> Plan:
    """Build the network for images (C, H, W) or windows of tokens (T,), cut it, and give each stage its delay.

    Weights come from torch's random generator.

    Raises:
        UserError: on an unknown network or strategy, a group size out of range, or delays that don't fit the stages.
    """
    history = make_history(config.strategy)
    units = networks.build(config.network, input_shape=input_shape, num_classes=num_classes, width=config.width)
    if config.strategy == "sequential":
        config = config.copy_with(group_size=len(units), convention="none", delays=None, stash_epochs=0.0)
    stages = partition(units, config.group_size)
    if config.delays is None:
        delays = Delays.by_law(config.convention, len(stages))
    elif len(config.delays) == len(stages):
        delays = Delays.custom(config.delays)
    else:
        raise UserError(f"delays has {len(config.delays)} entries, but there are {len(stages)} stages; give one each")
    return Plan(config, len(units), stages, delays, history)
