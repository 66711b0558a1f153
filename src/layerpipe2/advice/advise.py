"""Train each strategy for a while: one network, its settings and mini-batches, side by side."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from layerpipe2.advice.result import Advice
from layerpipe2.advice.side_by_side import KeptLoss, Progress, SideBySide
from layerpipe2.delays import Delays
from layerpipe2.engine.batches import adapted
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.gradient_probe import PROBED
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.engine.replay import copied
from layerpipe2.errors import LARGEST, UserError, integer
from layerpipe2.lightning import pl
from layerpipe2.strategies import StashFirst, Strategy, find_strategy, make_strategy

STEPS = 200
"""Updates that are made, if nothing else is asked for."""
_RECALLING = ("latest", "average", "pair")
"""Families of strategies whose weights are not exact."""


def advise_module(
    module: PipelinedModule,
    loader: Iterable[Any],
    *,
    steps: int = STEPS,
    strategies: Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Advice:
    """Train copies of the stages from the first update on: by exact stashing, and beside it with each strategy.

    All of them have the module's settings, the same initial weights, mini-batches and random numbers. Along stashing
    the strategies' recalled weights and gradients are measured. Nothing else is changed, random generators included.

    Args:
        module: with the optimizer, loss, scheduler and other settings of the training to come.
        loader: a ``DataLoader`` or list of mini-batches ``(x, y)``; read again from the start when it ends.
        steps: updates of each training.
        strategies: which to train beside stashing and the module's own; by default ``latest``, ``ema-lsq``, ``pair``.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called after every update with their number, ``steps`` and the seconds left (NaN: not known yet).

    Raises:
        UserError: on settings that don't work together, or a pipeline without delays.
    """
    if not isinstance(module, PipelinedModule) or not isinstance(module.stages, nn.ModuleList):
        raise UserError(f"module is a {type(module).__name__}; give a PipelinedModule with all of its stages")
    integer(steps, "steps", 1, LARGEST)
    beside = {name: _as_in(module, name) for name in _names(module, strategies)}
    _check_delays(module.delays)
    loss = KeptLoss(adapted(module.loss, module.ignore_index))
    with pl.utilities.seed.isolate_rng():
        stashing = PipelinedModule(
            copied(list(module.stages)),
            module.delays,
            make_strategy("stash"),
            optimizer=module.make_optimizer,
            loss=loss,
            scheduler=module.make_scheduler,
            scheduler_interval="step" if module.scheduler_interval == "step" else "epoch",
            gradient_clip_norm=module.gradient_clip_norm,
            drain=module.drain,
            precision="bf16" if module.precision == "bf16" else "native",
            stage_seed=module.stage_seed,
            unfreezes=module.unfreezes,
            accumulate=module.accumulate,
            inputs=module.inputs,
            target=module.target,
            shift_target=module.shift_target,
            ignore_index=module.ignore_index,
        )
        trainings = SideBySide(beside, steps, loss, progress)
        trainer = quiet_trainer(-1, resolve_device(device), [trainings], limits=(None, 0))
        silent = ("You defined a `validation_step` but have no `val_dataloader`", "Total length of .* is zero")
        with running_lightning(*silent):
            trainer.fit(stashing, readable(loader))
        return trainings.advice(stashing)


def readable(loader: Iterable[Any]) -> Iterable[Any]:
    """Wrap a list of mini-batches, whose items Lightning would take for loaders."""
    return DataLoader(loader, batch_size=None) if isinstance(loader, list) else loader  # type: ignore[arg-type]


def _names(module: PipelinedModule, strategies: Sequence[str] | None) -> list[str]:
    for name in strategies or ():
        if find_strategy(name).family not in _RECALLING:
            raise UserError(f"strategy '{name}' has exact weights, as stash has, which trains anyway; leave it out")
    own = getattr(module.strategy, "then", module.strategy).name
    also = [own] if own and find_strategy(own).family in _RECALLING else []
    return list(dict.fromkeys([*(PROBED if strategies is None else strategies), *also]))


def _as_in(module: PipelinedModule, name: str) -> Strategy:
    """Return the strategy of this name, after as many updates with exact weights as the module's own has."""
    strategy, own = make_strategy(name), module.strategy
    return StashFirst(then=strategy, updates=own.updates) if isinstance(own, StashFirst) else strategy


def _check_delays(delays: Delays) -> None:
    if not any(delays.per_stage):
        raise UserError(
            f"no stage has a delay ({delays.num_stages} stages, delay law '{delays.convention}'): there is no history "
            "to drop; cut the network into more stages, or give another delay law"
        )
