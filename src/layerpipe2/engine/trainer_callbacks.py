"""Lightning's callbacks beside a pipeline: whose hooks are called, and which would train something else.

docs/howto/callbacks.md has the table; a test holds each of its lines.
"""

from collections.abc import Callable
from typing import Any

from layerpipe2.errors import UserError
from layerpipe2.lightning import pl

Hooks = dict[str, list[tuple[Any, Callable[..., object]]]]
"""Hook -> whose it is (a callback or the module), and what is called."""

GRADIENT_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
"""Lightning's hooks between the forward pass of a mini-batch and its update, in order."""

_REFUSED: dict[str, str] = {
    "StochasticWeightAveraging": "steps learning rates and rereads the data by itself; take EMAWeightAveraging",
    "GradientAccumulationScheduler": "skips updates by itself; give PipelinedModule(accumulate=2) or the like",
    "LearningRateFinder": "needs an optimizer that Lightning steps; compare short trainings with `layerpipe2 train`",
    "BatchSizeFinder": "trains and restores the network in between; choose the mini-batch's size yourself",
    "ModelPruning": "replaces weights by masked ones, where recalled weights can't reach; prune before or after "
    "training",
}
_REFUSED_BY_SEVERAL: dict[str, str] = {
    "WeightAveraging": "averages the whole network, and each process has some stages only; train in one process",
}


def check_callbacks(trainer: pl.Trainer, module: pl.LightningModule, *, several: bool = False) -> None:
    """Refuse callbacks that would train something else beside a pipeline of one process or of ``several``.

    Raises:
        UserError: naming the callback and what to do instead.
    """
    refused = _REFUSED | (_REFUSED_BY_SEVERAL if several else {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, pl.Callback):
            raise UserError(
                f"{type(callback).__name__} is no callback of {pl.__name__}, as the Trainer is; take one of it"
            )
        for kind, reason in refused.items():
            if isinstance(callback, getattr(pl.callbacks, kind)):
                raise UserError(f"{type(callback).__name__} doesn't work with a pipeline: it {reason}")
    hooks = gradient_hooks(trainer, module) if several else {}
    for name, called in hooks.items():
        raise UserError(
            f"{type(called[0][0]).__name__} has {name}, but the processes of a pipeline never hold the gradients "
            "of one mini-batch at one time; give gradient_clip_norm, or train in one process"
        )


def unfreezes(trainer: pl.Trainer) -> bool:
    """Whether a callback announces that parameters which are frozen now may be unfrozen."""
    return any(isinstance(callback, pl.callbacks.BaseFinetuning) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def gradient_hooks(trainer: pl.Trainer, module: pl.LightningModule) -> Hooks:
    """What somebody wrote for the hooks of :data:`GRADIENT_HOOKS`, in Lightning's order."""
    found: Hooks = {}
    for name in GRADIENT_HOOKS:
        own: list[Any] = [c for c in trainer.callbacks if _overrides(c, pl.Callback, name)]  # type: ignore[attr-defined]
        own += [module] if _overrides(module, pl.LightningModule, name) else []
        if own:
            found[name] = [(one, getattr(one, name)) for one in own]
    return found


def call_hook(hooks: Hooks, module: pl.LightningModule, name: str, *args: Any) -> None:
    """Call the methods of one hook: those of callbacks with trainer and module, the module's own without."""
    for owner, method in hooks.get(name, ()):
        method(*(() if owner is module else (module.trainer, module)), *args)


def _overrides(one: Any, base: type, name: str) -> bool:
    """Say whether a callback has a hook, by its class or as an attribute of its own (``LambdaCallback``)."""
    return getattr(getattr(one, name), "__func__", None) is not getattr(base, name)
