"""Settings of a ``PipelinedModule`` by name, and as plain values: for configuration files, loggers and checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F

from layerpipe2.delays import Delays
from layerpipe2.engine.execution import StagedModule
from layerpipe2.errors import UserError, did_you_mean, shown
from layerpipe2.strategies import make_strategy

LOGGED = ("num_stages", "delays_per_stage", "scheduler")
"""Entries of :func:`hparams` for loggers alone: those that follow from others, and what weights are used without."""

PLAIN = (
    "scheduler_interval",
    "gradient_clip_norm",
    "drain",
    "precision",
    "stage_seed",
    "cuda_graph",
    "unfreezes",
    "accumulate",
    "probe_every",
    "inputs",
    "target",
    "ignore_index",
    "shift_target",
    "accuracy",
)
"""Settings that are plain values."""


def delays_from(given: Any, num_stages: int) -> Any:
    """Delays from a law's name or a list, one per stage; what is neither stays what it is.

    Raises:
        UserError: on an unknown law, or an entry that is no delay.
    """
    if isinstance(given, str):
        return Delays.by_law(given, num_stages)
    return Delays.custom(given) if isinstance(given, list | tuple) else given


def strategy_from(given: Any) -> Any:
    """A strategy from its name; what is no name stays what it is.

    Raises:
        UserError: on an unknown strategy.
    """
    if not isinstance(given, str):
        return given
    try:
        return make_strategy(given)
    except UserError as error:
        raise UserError(f"{error}; or give a Strategy itself") from None


def loss_from(given: Any) -> Any:
    """A loss from its name in ``torch.nn.functional``, such as ``mse_loss``; what is no name stays what it is.

    Raises:
        UserError: on an unknown name.
    """
    if not isinstance(given, str):
        return given
    known = [name for name in dir(F) if name.endswith("_loss")] + ["cross_entropy"]
    if given not in known:
        raise UserError(f"unknown loss {shown(given)}; {did_you_mean(given, known)}; or give the function itself")
    return getattr(F, given)


def hparams(module: StagedModule) -> dict[str, Any]:
    """Argument -> plain value: :data:`PLAIN` attributes as they are, delays, strategy and functions by name.

    A function's name is text for the reader of a log, and stops ``load_from_checkpoint`` from taking another one
    silently: functions must be given again, but for losses of torch.
    """
    delays, functions = module.delays, {"optimizer": module.make_optimizer, "scheduler": module.make_scheduler}
    return {
        "num_stages": delays.num_stages,
        "delays_per_stage": list(delays.per_stage),
        "delays": list(delays.per_stage) if delays.convention == "custom" else delays.convention,
        "strategy": module.strategy.name or module.strategy.kind,
        "loss": _name(module.loss),
        **{name: value if value is None else _name(value) for name, value in functions.items()},
        **{name: getattr(module, name) for name in PLAIN},
    }


def _name(function: Callable[..., Any]) -> str:
    """Name a function or class as in ``torch.optim.sgd.SGD``; a loss of torch by its name alone."""
    if isinstance(function, partial):  # LightningCLI's names the class as an argument
        function = next((one for one in function.args if isinstance(one, type)), function.func)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if getattr(F, name, None) is function:
        return name
    return f"{getattr(function, '__module__', type(function).__module__)}.{name}"
