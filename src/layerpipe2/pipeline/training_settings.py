"""What module and ``Trainer`` ask of several processes: can they train it, how long, and what must be equal in all."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layerpipe2.engine.execution import StagedModule, StepLimit
from layerpipe2.errors import UserError
from layerpipe2.lightning import pl


def check_trainer(module: StagedModule) -> None:
    """Delays that a pipeline can have, CPUs or CUDA, one data loader for all epochs, native precision.

    Raises:
        UserError: saying what to change.
    """
    trainer, delays = module.trainer, list(module.delays.per_stage)
    if not module.delays.is_realizable:
        raise UserError(f"delays {delays} grow towards the output, which no pipeline can have; give delays that don't")
    several = "a pipeline of several processes"
    if not isinstance(trainer.accelerator, pl.accelerators.CPUAccelerator | pl.accelerators.CUDAAccelerator):
        raise UserError(f"{several} runs on CPUs or NVIDIA GPUs; give the Trainer accelerator='cpu'")
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        raise UserError(f"{several} reads ahead into the next epoch; leave reload_dataloaders_every_n_epochs alone")
    if module.precision != "native" or "16" in str(trainer.precision):
        raise UserError(
            f"{several} computes in the parameters' own type; leave precision and the Trainer's precision alone"
        )


def remaining_batches(module: StagedModule) -> float:
    """Mini-batches that the ``Trainer`` will still train, as far as it can be known before."""
    trainer: Any = module.trainer
    per_epoch, epoch = int(trainer.num_training_batches), trainer.current_epoch
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - epoch
    steps = math.inf if trainer.max_steps == -1 else (trainer.max_steps - trainer.global_step) * module.accumulate
    limits = [c.max_steps - epoch * per_epoch for c in trainer.callbacks if isinstance(c, StepLimit)]
    return float(min(epochs * per_epoch, steps, *limits))


def training_settings(module: StagedModule, network: str, optimizer: Optimizer) -> dict[str, str]:
    """Name -> value; ``network`` is its :func:`fingerprint`, ``optimizer`` that of any stage."""
    trainer, strategy = module.trainer, module.strategy
    state = strategy.init(torch.zeros(1), 3)
    constants = [state[name].tolist() for name in strategy.constants if name in state]  # such as the decays
    return {
        "network": network,
        "delays": str(module.delays.per_stage),
        "strategy": f"{strategy.kind} {constants}",
        **{f"optimizer's {name}": str(value) for name, value in optimizer.defaults.items()},
        "drain, clipping, seed of the stages": f"{module.drain}, {module.gradient_clip_norm}, {module.stage_seed}",
        "mini-batches per update": str(module.accumulate),
        "delays of frozen parameters": str(module.delays_frozen),
        "mini-batches": f"{trainer.num_training_batches} for {trainer.max_epochs} epochs",
    }


def check_alike(optimizers: Mapping[int, Optimizer]) -> None:
    """The parts of one optimizer that a process's stages have, by their numbers, have one rate per group.

    Raises:
        UserError: naming two stages, if their rates differ: what is set for the first one counts for no other.
    """
    for (first, known), (stage, own) in pairwise(optimizers.items()):
        for number, (one, other) in enumerate(zip(known.param_groups, own.param_groups, strict=False)):
            if isinstance(one.get("lr"), float) and one["lr"] != other["lr"]:
                raise _differ(number, first, one["lr"], stage, other["lr"])


def rates(optimizers: Mapping[int, Optimizer]) -> list[tuple[int, int, float]]:
    """Group, stage and learning rate, for the groups that have parameters in this process."""
    groups = ((number, k, group) for k, one in optimizers.items() for number, group in enumerate(one.param_groups))
    return [(number, k, float(group["lr"])) for number, k, group in groups if group["params"] and "lr" in group]


def check_alike_everywhere(found: Iterable[Sequence[tuple[int, int, float]]]) -> None:
    """Do :func:`check_alike` with all processes' :func:`rates`.

    Raises:
        UserError: likewise.
    """
    known: dict[int, tuple[int, float]] = {}
    for number, stage, rate in chain.from_iterable(found):
        first, one = known.setdefault(number, (stage, rate))
        if repr(one) != repr(rate):  # NaN as text equals itself
            raise _differ(number, first, one, stage, rate)


def _differ(group: int, first: int, known: float, stage: int, rate: float) -> UserError:
    return UserError(
        f"the learning rate of group {group} is {known:g} in stage {first} and {rate:g} in stage {stage}, which have "
        "one optimizer in a single process (set by a callback, or by a scheduler that counts its calls or looks at "
        "weights?); change it in all of trainer.optimizers, and step all schedulers"
    )


def check_given(now: list[Optimizer], given: list[Optimizer]) -> None:
    """The ``Trainer`` still has the optimizers that training began with.

    Raises:
        UserError: if not: each process steps those of its own stages.
    """
    if now is not given:
        raise UserError(
            "trainer.optimizers was replaced while training (by a callback?), where it has no effect in several "
            "processes; give the optimizer before fit(), change the groups of those that are there, or train in one "
            "process"
        )


def fingerprint(stages: nn.Module) -> str:
    """Names, shapes and types of all weights, in short."""
    found = ((name, value) for name, value in stages.state_dict().items() if isinstance(value, Tensor))
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in found]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]
