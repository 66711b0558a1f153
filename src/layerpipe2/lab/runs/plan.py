"""What a run is made of: stages with their delays and weight history, batches, optimizer, learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError, look_up
from layerpipe2.lab import networks
from layerpipe2.lab.data import BatchLoader, Data, describe, split
from layerpipe2.lab.networks.spiking import SETTINGS
from layerpipe2.lab.runs.config import FURTHER_OPTIMIZERS, RunConfig
from layerpipe2.lab.runs.memory import check_memory
from layerpipe2.stages import partition
from layerpipe2.strategies import StashFirst, Strategy, find_strategy, make_strategy

Loaders = dict[str, BatchLoader]
_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Plan:
    """A network cut into stages, with its delays and its strategy.

    Attributes:
        config: the configuration with the ``group_size`` and the delay law of the sequential baseline filled in.
        units: number of units, which stages group.
        stages: the pipeline's stages, input side first.
    """

    config: RunConfig
    units: int
    stages: list[nn.Sequential]
    delays: Delays
    strategy: Strategy

    @property
    def accumulate(self) -> int:
        """Mini-batches per update."""
        return self.config.accumulate or 1

    @property
    def lags(self) -> list[int]:
        """The longest delay of every stage, in updates."""
        return [-(-delay // self.accumulate) for delay in self.delays.per_stage]

    def warmed_up(self, steps_per_epoch: int) -> Plan:
        """The plan with exact weights for the first ``stash_epochs`` epochs, if the configuration asks for them."""
        updates = round(self.config.stash_epochs * (steps_per_epoch // self.accumulate))
        if not updates or self.strategy.exact:
            return self
        return replace(self, strategy=StashFirst(then=self.strategy, updates=updates))

    @property
    def parameters_per_stage(self) -> list[int]:
        """Number of parameters of each stage."""
        return [sum(p.numel() for p in stage.parameters()) for stage in self.stages]

    def history_copies(self, strategy: Strategy | None = None) -> float:
        """Modelled hardware memory: parameter copies beside the latest weights, as multiples of the network's size."""
        strategy, config, sizes = strategy or self.strategy, self.config, self.parameters_per_stage
        buffer = config.optimizer == "adamw" or (config.momentum > 0 and not config.nesterov)
        copies = [strategy.copies(d, momentum_buffer=buffer) for d in self.lags]
        return sum(c * n for c, n in zip(copies, sizes, strict=True)) / sum(sizes)


def plan_from(config: RunConfig) -> Plan:
    """The plan without weights in memory: parameters are on torch's meta device.

    Raises:
        UserError: as :func:`make_plan`, and on an unknown data set.
    """
    spec = describe(config.dataset)
    with torch.device("meta"):  # only shapes are needed
        return _plan(config, spec.input_shape, spec.num_classes)


def make_plan(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> Plan:
    """Build the network for images (C, H, W) or windows of tokens (T,), cut it, and give each stage its delay.

    Weights come from torch's random generator.

    Raises:
        UserError: on an unknown network or strategy, a group size out of range, delays that don't fit the stages, or
            what is too large for the memory.
    """
    check_run(config.copy_with(seed=0), input_shape, num_classes)
    return _plan(config, input_shape, num_classes)


def _plan(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> Plan:
    """The plan, whether or not it fits in memory."""
    strategy, known = make_strategy(config.strategy), find_strategy(config.strategy).optimizers
    if known is not None and config.optimizer not in known:
        what = f"strategy '{config.strategy}' is not defined for the optimizer {config.optimizer}"
        raise UserError(f"{what}; take {' or '.join(known) or 'another strategy'}")
    units = make_units(config, input_shape, num_classes)
    if config.strategy == "sequential":
        config = config.copy_with(group_size=len(units), convention="none", delays=None, stash_epochs=0.0)
    stages = partition(units, config.group_size)
    if config.delays is None:
        delays = Delays.by_law(config.convention, len(stages))
    elif len(config.delays) == len(stages):
        delays = Delays.custom(config.delays)
    else:
        raise UserError(f"delays has {len(config.delays)} entries, but there are {len(stages)} stages; give one each")
    return Plan(config, len(units), stages, delays, strategy)


def make_units(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    """The network of a run as a flat list of units; weights come from torch's random generator.

    Raises:
        UserError: as :func:`layerpipe2.lab.networks.build`.
    """
    given = {name: value for name in SETTINGS if (value := getattr(config, name)) is not None}
    if look_up(networks.NETWORKS, config.network, "network").kind == networks.SPIKING:
        given["seed"] = config.seed
    return networks.build(
        config.network, input_shape=input_shape, num_classes=num_classes, width=config.width, spiking=given
    )


@cache
def check_run(config: RunConfig, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse what :func:`make_plan` would, without any weights in memory.

    Raises:
        UserError: as there.
    """
    with torch.device("meta"):
        plan = _plan(config, input_shape, num_classes)
    check_memory(config, plan.stages, plan.lags, input_shape)


def make_loaders(config: RunConfig, data: Data, device: torch.device) -> Loaders:
    """Loaders ``train`` (shuffled, whole batches only), ``validation`` and ``test``, all in memory on ``device``.

    Raises:
        UserError: if the training part doesn't fill one batch.
    """
    parts = split(data, config.validation_fraction, config.seed)
    if len(parts.train.y) < config.batch_size:
        raise UserError(f"batch_size is {config.batch_size}; give at most {len(parts.train.y)}, the training images")
    common: dict[str, Any] = {"mean": data.mean, "std": data.std, "seed": config.seed, "device": device}
    common["dtype"] = torch.float64 if config.precision == "float64" else torch.float32
    train = BatchLoader(parts.train, config.batch_size, shuffle=True, augment=config.augment, drop_last=True, **common)
    rest = {"validation": parts.validation, "test": parts.test}
    return {"train": train} | {name: BatchLoader(part, _EVALUATION_BATCH, **common) for name, part in rest.items()}


def optimizer_factory(config: RunConfig) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Parameters -> optimizer with the settings of ``config``; one that a CUDA graph can hold on a CUDA device."""

    def make(given: Iterable[nn.Parameter]) -> Optimizer:
        parameters = list(given)
        cuda = parameters[0].is_cuda
        common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
        if config.optimizer in FURTHER_OPTIMIZERS:
            made: Optimizer = FURTHER_OPTIMIZERS[config.optimizer](parameters, **common)
            return made
        common["fused"] = cuda
        if config.optimizer == "adamw":
            return AdamW(parameters, capturable=cuda, **common)
        return SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, **common)

    return make


def scheduler_factory(config: RunConfig, steps_per_epoch: int) -> Callable[[Optimizer], LRScheduler]:
    """Optimizer -> schedule that is stepped once per update; see :func:`lr_factor`."""
    each = config.accumulate or 1
    warmup = round(config.warmup_epochs * (steps_per_epoch // each))
    total = config.epochs * (steps_per_epoch // each)
    total = min(total, config.max_steps // each if config.max_steps else total)

    def make(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: lr_factor(step, warmup, total, config.schedule))

    return make


def lr_factor(step: int, warmup: int, total: int, schedule: str) -> float:
    """Learning rate of update ``step`` as a share of the peak.

    Rises linearly over ``warmup`` steps; then stays (``constant``) or falls along half a cosine that reaches zero
    after ``total`` steps (``cosine``).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
