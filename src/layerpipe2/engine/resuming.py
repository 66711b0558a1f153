"""Where a resumed run is not the one that the checkpoint is of: refused, or said in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from layerpipe2.errors import UserError
from layerpipe2.lightning import pl

_OPTIMIZER, _SCHEDULER = "optimizer", "scheduler"
"""Entries of a checkpoint's pipeline: the names of their classes."""
_PARAMETERS = "layerpipe2's parameters"
"""Entry of an optimizer's state: their names, by group."""


def note_resumed(checkpoint: dict[str, Any], module: pl.LightningModule) -> None:
    """Add to a checkpoint what :func:`check_resumed` reads."""
    optimizers, schedulers = module.trainer.optimizers, module.trainer.lr_scheduler_configs
    if optimizers:
        checkpoint["pipeline"][_OPTIMIZER] = type(optimizers[0]).__name__
    if schedulers:
        checkpoint["pipeline"][_SCHEDULER] = _kind(schedulers[0].scheduler)
    for state, optimizer in zip(checkpoint.get("optimizer_states", ()), optimizers, strict=False):
        if "param_groups" in state:
            state[_PARAMETERS] = _names(optimizer, module)


def check_resumed(checkpoint: Mapping[str, Any], module: pl.LightningModule) -> None:
    """Refuse a checkpoint without optimizers, or of others; say if it has no state of a pipeline.

    Raises:
        UserError: naming what differs.
    """
    if "optimizer_states" not in checkpoint:
        raise UserError(
            "the checkpoint has weights only, from which no run can be resumed; give one of "
            "ModelCheckpoint(save_weights_only=False), or start anew from load_from_checkpoint"
        )
    optimizers, schedulers = module.trainer.optimizers, module.trainer.lr_scheduler_configs
    kept = checkpoint.get("pipeline", {})
    states, saved = checkpoint["optimizer_states"], kept.get(_OPTIMIZER)
    name = type(optimizers[0]).__name__
    if saved not in (None, name):
        raise _other(f"of {saved}, and this one trains with {name}")
    for config in schedulers[:1]:
        kind = _kind(config.scheduler)
        if kept.get(_SCHEDULER, kind) != kind:
            raise _other(f"of {kept[_SCHEDULER]}, and this one has {kind}")
    if states and len(states) != len(optimizers):  # a process without a stage that trains has saved none
        raise _other(f"of {len(states)} optimizers, and this one has {len(optimizers)}")
    for state, optimizer in zip(states, optimizers, strict=False):
        _check_groups(state.get("param_groups"), optimizer)
        if state.pop(_PARAMETERS, names := _names(optimizer, module)) != names:
            raise _other("of parameter groups of other parameters, or in another order")
    if "pipeline" not in checkpoint:
        pl.utilities.rank_zero_warn(
            "layerpipe2: the checkpoint has no state of a pipeline (it is of another module?): training begins with "
            "an empty pipeline, as from its weights"
        )


def _check_groups(saved: Sequence[Mapping[str, Any]] | None, optimizer: Optimizer) -> None:
    if saved is None:  # an optimizer with a state of its own form
        return
    theirs, ours = ([len(group["params"]) for group in groups] for groups in (saved, optimizer.param_groups))
    if theirs != ours:
        raise _other(f"of parameter groups of {theirs} parameters, and this one has {ours}")
    # Versions of torch differ in flags alone, for which they have defaults; schedulers add numbers.
    lacking = dict.fromkeys(
        key
        for held, group in zip(saved, optimizer.param_groups, strict=True)
        for key, value in {**optimizer.defaults, **group}.items()
        if type(value) in (int, float, tuple) and key not in {*held, "initial_lr"}
    )
    if lacking:
        name = type(optimizer).__name__
        raise _other(f"of an optimizer without {', '.join(lacking)}, and this one trains with {name}")


def warn_of_data(trainer: pl.Trainer, checkpoint: Mapping[str, Any], *, several: bool) -> None:
    """Say in one line if the data go on otherwise than in the uninterrupted run; ``several``: processes."""
    difference = _difference_of_data(trainer, checkpoint, several)
    if difference is not None:
        pl.utilities.rank_zero_warn(f"layerpipe2: the resumed run is not the uninterrupted one: {difference}")


def _difference_of_data(trainer: pl.Trainer, checkpoint: Mapping[str, Any], several: bool) -> str | None:
    loop = trainer.fit_loop
    loaders = pl.utilities.CombinedLoader(trainer.train_dataloader).flattened
    held = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader")
    if several:
        loaders, held = [one.loader for one in loaders], None
    has_state = all(hasattr(one, "state_dict") and hasattr(one, "load_state_dict") for one in loaders)
    stateful = bool(held) and has_state
    batches = loop.epoch_loop.batch_progress
    epochs: Any = loop.epoch_progress.current
    if 0 < batches.current.ready < trainer.num_training_batches and not batches.is_last_batch:
        where = f"the checkpoint is of the middle of an epoch, after {batches.current.ready} mini-batches"
        if epochs.processed == epochs.ready:
            return f"{where}, and Lightning begins the next epoch; take a checkpoint of an epoch's end"
        if not stateful:
            remedy = "" if several else ", or give a loader with state_dict and load_state_dict"
            return f"{where}, and the data loader begins anew; take a checkpoint of an epoch's end{remedy}"
    if stateful or not batches.total.ready:
        return None
    remedy = "" if several else ", or a loader with state_dict and load_state_dict"
    if any(map(_has_own_order, loaders)):
        return (
            "the order of the data comes from the loader's own generator or state, which begins anew; give a sampler "
            f"with set_epoch, such as DistributedSampler(data, 1, 0){remedy}"
        )
    if not several and any(map(_draws_before_the_epoch_is_set, loaders)):
        return f"the data loader's workers begin with the order of epoch 0; give num_workers=0{remedy}"
    return None


def _has_own_order(loader: Any) -> bool:
    """Whether the order of a loader hangs on what neither torch's default generator nor the epoch's number gives."""
    sampler = getattr(loader, "sampler", None)
    own = getattr(sampler, "generator", None) is not None or hasattr(loader, "load_state_dict")
    return own and not hasattr(sampler, "set_epoch")


def _draws_before_the_epoch_is_set(loader: Any) -> bool:
    return hasattr(getattr(loader, "sampler", None), "set_epoch") and getattr(loader, "num_workers", 0) > 0


def _names(optimizer: Optimizer, module: nn.Module) -> list[list[str]]:
    """Return the parameters' names by group; those that aren't the module's have none."""
    names = {p: name for name, p in module.named_parameters()}
    return [[names.get(p, "") for p in group["params"]] for group in optimizer.param_groups]


def _kind(scheduler: Any) -> str:
    """The name of its class, with those of the schedulers that it consists of."""
    parts = [_kind(one) for one in getattr(scheduler, "_schedulers", ())]
    return f"{type(scheduler).__name__}({', '.join(parts)})" if parts else type(scheduler).__name__


def _other(what: str) -> UserError:
    return UserError(f"the checkpoint is {what}; resume with the same optimizer, groups and scheduler")
