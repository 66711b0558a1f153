"""Does this network, in so many stages, with this optimizer and learning rate, need a weight history?"""

from collections.abc import Iterable, Sequence
from typing import Any

from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from layerpipe2.advice.measurement import Measurement
from layerpipe2.advice.result import Advice
from layerpipe2.advice.rule import RULE, strategy_of
from layerpipe2.delays import Delays
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.engine.replay import copied
from layerpipe2.errors import LARGEST, UserError, integer
from layerpipe2.strategies import STRATEGIES, find_strategy, make_strategy

STEPS = 100
"""Updates that a measurement spans, if nothing else is asked for."""
_RECALLING = ("latest", "average", "pair")
"""Families of strategies whose weights are not exact."""


def advise_module(
    module: PipelinedModule,
    loader: Iterable[Any],
    *,
    steps: int = STEPS,
    warmup: int = 0,
    strategies: Sequence[str] | None = None,
    epochs: int = -1,
    max_steps: int | None = None,
    device: str = "auto",
) -> Advice:
    """Train a copy of the stages by exact stashing for a while, and measure what each strategy would do instead.

    Nothing else is changed, random generators included. A training that diverges is advice, too.

    Args:
        module: with the optimizer, loss, scheduler and other settings of the training to come.
        loader: a ``DataLoader`` of mini-batches ``(x, y)``; read again from the start when it ends.
        steps: updates that the measurement spans, once the pipeline is full.
        warmup: updates before it begins at the earliest, such as those of the scheduler's warm-up.
        strategies: which to measure beside ``latest`` and that of the rule of thumb; by default all of the table that
            are not exact.
        epochs, max_steps: of the training to come, if that may end before; by default it goes on.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: on settings that don't work together, a pipeline without delays, or a training that ends too early.
    """
    if not isinstance(module, PipelinedModule) or not isinstance(module.stages, nn.ModuleList):
        raise UserError(f"module is a {type(module).__name__}; give a PipelinedModule with all of its stages")
    names = _names(steps, strategies, module.strategy.name or "latest")
    integer(warmup, "warmup", 0)
    _check_delays(module.delays)
    with isolate_rng():
        stashing = PipelinedModule(
            copied(list(module.stages)),
            module.delays,
            make_strategy("stash"),
            optimizer=module.make_optimizer,
            loss=module.loss,
            scheduler=module.make_scheduler,
            scheduler_interval="step" if module.scheduler_interval == "step" else "epoch",
            gradient_clip_norm=module.gradient_clip_norm,
            drain=module.drain,
            precision="bf16" if module.precision == "bf16" else "native",
            stage_seed=module.stage_seed,
            cuda_graph=module.cuda_graph,
            unfreezes=module.unfreezes,
        )
        measurement = Measurement(names, steps, warmup)
        limit = [StepLimit(max_steps)] if max_steps else []
        trainer = quiet_trainer(epochs, resolve_device(device), [measurement, *limit], limits=(None, 0))
        with running_lightning("You defined a `validation_step` but have no `val_dataloader`"):
            trainer.fit(stashing, loader)
        return measurement.advice(stashing)


def _names(steps: int, strategies: Sequence[str] | None, own: str) -> list[str]:
    integer(steps, "steps", 1, LARGEST)
    table = [name for name, row in STRATEGIES.items() if row.family in _RECALLING]
    for name in strategies or ():
        if find_strategy(name).family not in _RECALLING:
            raise UserError(f"strategy '{name}' has exact weights: there is nothing to measure; leave it out")
    also = [own] if find_strategy(own).family in _RECALLING else []
    return list(
        dict.fromkeys(["latest", strategy_of(RULE.quantity), *(table if strategies is None else strategies), *also])
    )


def _check_delays(delays: Delays) -> None:
    if not any(delays.per_stage):
        raise UserError(
            f"no stage has a delay ({delays.num_stages} stages, delay law '{delays.convention}'): there is no history "
            "to drop; cut the network into more stages, or give another delay law"
        )
