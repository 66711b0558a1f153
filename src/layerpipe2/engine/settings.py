"""The settings of a ``PipelinedModule``: what each must be, checked when it is made and again before it trains."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from layerpipe2.delays import Delays
from layerpipe2.engine.accumulation import check_accumulation
from layerpipe2.engine.batches import adapted
from layerpipe2.engine.execution import COMPUTE_DTYPES, StagedModule
from layerpipe2.engine.layout import check_pipeline
from layerpipe2.errors import UserError, shown
from layerpipe2.strategies import Strategy
from layerpipe2.strategies.stash import Stash

_LARGEST_SEED = 2**32 - 1


class _Setting(NamedTuple):
    attribute: str
    fits: Callable[[Any], bool]
    remedy: str


def _is_a_norm(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_a_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_SEED


def _is_a_key(value: Any) -> bool:
    return value is None or type(value) in (str, int)


def _are_keys(value: Any) -> bool:
    return _is_a_key(value) or (type(value) is tuple and bool(value) and all(type(key) in (str, int) for key in value))


_SETTINGS = {
    "delays": _Setting(
        "delays",
        lambda v: isinstance(v, Delays),
        "give Delays, such as Delays.layerpipe2(4), a delay law's name, or a list",
    ),
    "strategy": _Setting(
        "strategy",
        lambda v: isinstance(v, Strategy),
        "give a strategy's name, such as 'ema-span', or a Strategy",
    ),
    "optimizer": _Setting(
        "make_optimizer", callable, "give a function that makes it, as lambda p: torch.optim.SGD(p, 0.1)"
    ),
    "loss": _Setting("loss", callable, "give a function of outputs and targets, such as F.cross_entropy, or its name"),
    "scheduler": _Setting(
        "make_scheduler",
        lambda v: v is None or callable(v),
        "give a function that makes it from the optimizer, or None",
    ),
    "scheduler_interval": _Setting("scheduler_interval", lambda v: v in ("epoch", "step"), "give 'epoch' or 'step'"),
    "gradient_clip_norm": _Setting(
        "gradient_clip_norm", lambda v: v is None or _is_a_norm(v), "give a finite number > 0, or None"
    ),
    "drain": _Setting("drain", lambda v: type(v) is bool, "give True or False"),
    "precision": _Setting("precision", lambda v: v in COMPUTE_DTYPES, f"give one of {', '.join(COMPUTE_DTYPES)}"),
    "stage_seed": _Setting(
        "stage_seed", lambda v: v is None or _is_a_seed(v), f"give an integer from 0 to {_LARGEST_SEED}, or None"
    ),
    "cuda_graph": _Setting("cuda_graph", lambda v: type(v) is bool, "give True or False"),
    "unfreezes": _Setting("unfreezes", lambda v: v in (None, True, False), "give True, False or None"),
    "metrics": _Setting(
        "own_metrics",
        lambda v: all(n not in ("loss", "accuracy") and isinstance(m, Metric) for n, m in v.items()),
        "give a mapping from names other than loss and accuracy to metrics of torchmetrics",
    ),
    "inputs": _Setting("inputs", _are_keys, "give a name or position of a mini-batch's parts, or None for pairs"),
    "target": _Setting("target", _are_keys, "give a name or position of a mini-batch's parts, or None for pairs"),
    "ignore_index": _Setting(
        "ignore_index", lambda v: v is None or type(v) is int, "give the class that doesn't count, as -100, or None"
    ),
    "shift_target": _Setting("shift_target", lambda v: type(v) is bool, "give True or False"),
    "accuracy": _Setting("accuracy", lambda v: type(v) is bool, "give True or False"),
    "probe_every": _Setting(
        "probe_every", lambda v: type(v) is int and v >= 0, "give a number of updates, or 0 to measure nothing"
    ),
}
"""Argument of ``PipelinedModule`` -> where it is kept, what it may be, and what to give instead."""


def check_settings(module: StagedModule) -> None:
    """Refuse settings that would train something else than they say, or end in the middle of a training.

    Raises:
        UserError: naming the first one, with its value and what is allowed.
    """
    for name, setting in _SETTINGS.items():
        value = getattr(module, setting.attribute)
        try:
            fits = setting.fits(value)
        except (AttributeError, TypeError):  # not even comparable, as a list with names; no mapping
            fits = False
        if not fits:
            raise UserError(f"{name} is {shown(value)}; {setting.remedy}")
    check_accumulation(module.accumulate, module.strategy, module.delays)
    _check_parts(module)
    if module.probe_every:
        _check_probe(module)
    _check_loss(module.loss)
    if isinstance(module.stages, nn.ModuleList):
        _check_lazy(module.stages)
        dtype = COMPUTE_DTYPES[module.precision]
        check_pipeline(list(module.stages), module.delays, dtype, unfreezes=bool(module.unfreezes))


def _check_parts(module: StagedModule) -> None:
    """Refuse names of a mini-batch's parts that say only half."""
    if (module.inputs is None) != (module.target is None):
        raise UserError(
            f"inputs is {shown(module.inputs)} and target is {shown(module.target)}; name both parts of a mini-batch, "
            "or none where it is a pair"
        )
    several = isinstance(module.target, tuple)
    if several and adapted(module.loss, None) is not module.loss:
        raise UserError(
            f"target is {shown(module.target)}, and the loss takes one; give a function of outputs and a tuple"
        )
    if module.shift_target and (module.ignore_index is None or module.target is None or several):
        raise UserError("shift_target needs one target, and an ignore_index for the last position; give both, as -100")
    ignored = getattr(module.loss, "ignore_index", None)  # of torch's modules
    if (
        isinstance(module.loss, nn.Module)
        and module.ignore_index is not None
        and ignored not in (None, module.ignore_index)
    ):
        raise UserError(f"ignore_index is {module.ignore_index}, and the loss ignores {ignored}; give both the same")


def _check_probe(module: StagedModule) -> None:
    """Refuse to measure along a training whose weights are not exact, or whose update takes several mini-batches."""
    name = module.strategy.name or module.strategy.kind
    if type(module.strategy) is not Stash:
        found, remedy = f"the strategy is '{name}'", "give strategy='stash'"
    elif module.accumulate > 1:
        found, remedy = f"accumulate={module.accumulate} makes an update of several mini-batches", "give accumulate=1"
    else:
        return
    raise UserError(
        f"probe_every={module.probe_every} measures along updates with exact weights, but {found}; {remedy}, or leave "
        "probe_every out"
    )


def check_autocast(device: str, delays: Delays) -> None:
    """Refuse to train within an autocast that keeps cast weights until it ends: no update would be seen.

    Raises:
        UserError: saying so.
    """
    if any(delays.per_stage) and torch.is_autocast_enabled(device) and torch.is_autocast_cache_enabled():
        raise UserError(
            "fit() is called within torch.autocast, which keeps the weights that it has cast, so that stages would "
            "compute with those of the first mini-batch; call fit() outside, with PipelinedModule(precision='bf16')"
        )


def check_probe_alone(probe_every: int) -> None:
    """Refuse to measure where the stages run in several processes.

    Raises:
        UserError: saying so.
    """
    if probe_every:
        raise UserError(
            f"probe_every={probe_every} needs all stages in one process, and the Trainer's strategy runs them in "
            "several; leave probe_every out, or train in one process"
        )


def _check_loss(loss: Any) -> None:
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise UserError(
            f"loss is a {type(loss).__name__} with parameters, which belong to no stage and would not be trained; move "
            "them into the last stage, or freeze them"
        )


def _check_lazy(stages: nn.ModuleList) -> None:
    for k, stage in enumerate(stages):
        if any(is_lazy(p) for p in (*stage.parameters(), *stage.buffers())):
            raise UserError(
                f"stage {k} has a lazy layer, whose shapes aren't known yet; pass one mini-batch through the network "
                "before building the pipeline"
            )
