"""Random changes by a Lightning callback between two epochs: refused, or equal to the clock-driven pipeline."""

import copy
from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import PipelinedModule, make_strategy
from tests.chaos.attack import Act, Scene
from tests.chaos.engine import Training, check, draw
from tests.engine.training import trainer
from tests.test_reference import OPTIMIZERS

EPOCHS = 4
Change = Callable[[nn.Sequential, nn.Parameter], object]
VALUES: dict[str, Change] = {
    "in place": lambda stage, parameter: parameter.detach().mul_(0.5),
    "through .data": lambda stage, parameter: parameter.data.add_(0.1),
    "new .data": lambda stage, parameter: setattr(parameter, "data", parameter.data * 0.5),
    "initialized": lambda stage, parameter: nn.init.constant_(parameter.data, 0.1),
}
"""Changes of a parameter's value: a stage without a delay may go on with it."""
CHANGES: dict[str, Change] = VALUES | {
    "parameter replaced": lambda stage, parameter: _replace_parameter(stage, parameter),
    "parameter added": lambda stage, parameter: stage.register_parameter("extra", nn.Parameter(torch.ones(1))),
    "layer replaced": lambda stage, parameter: stage.__setitem__(0, copy.deepcopy(stage[0])),
    "layer added": lambda stage, parameter: _add_layer(stage),
    "activation replaced": lambda stage, parameter: _change_activation(stage, nn.Tanh()),
    "activation removed": lambda stage, parameter: _change_activation(stage, nn.Identity()),
    "frozen": lambda stage, parameter: parameter.requires_grad_(False),
    "stage frozen": lambda stage, parameter: stage.requires_grad_(False),
    "no change": lambda stage, parameter: None,
}
HOOKS = ("on_train_epoch_start", "on_train_epoch_end", "on_validation_end", "on_validation_start")
"""Between two epochs, where every change must be noticed; docs/howto/callbacks.md says what may pass in between."""


def _replace_parameter(stage: nn.Sequential, parameter: nn.Parameter) -> None:
    for layer in stage:
        for name, own in list(layer.named_parameters()):
            if own is parameter:
                setattr(layer, name, nn.Parameter(parameter.detach().clone()))


def _add_layer(stage: nn.Sequential) -> None:
    last = next(layer for layer in reversed(stage) if isinstance(layer, nn.Linear | nn.Conv2d))
    size = last.weight.shape[0]
    stage.append((nn.Linear(size, size) if isinstance(last, nn.Linear) else nn.Conv2d(size, size, 1)).double())


def _change_activation(stage: nn.Sequential, other: nn.Module) -> None:
    for i, layer in enumerate(stage):
        if isinstance(layer, nn.ReLU):
            stage[i] = other


def changed(scene: Scene) -> Act:
    """One change, of one stage, at one hook of an epoch that is not the last."""
    random = scene.random
    steps = random.randint(2, 6)
    training = draw(random, steps * EPOCHS)
    training.rates = [training.rates[0]] * len(training.batches)
    training.batches = training.batches[:steps] * EPOCHS
    kind, hook, epoch = random.choice(list(CHANGES)), random.choice(HOOKS), random.randrange(EPOCHS - 1)
    k = random.choice([k for k, stage in enumerate(training.stages) if list(stage.parameters())])
    name, _ = random.choice(list(training.stages[k].named_parameters()))
    since = steps * (epoch + (hook != "on_train_epoch_start"))

    def frozen(stage: int, batch: int, parameter: str) -> bool:
        whole = kind == "stage frozen"
        return kind in ("frozen", "stage frozen") and stage == k and (whole or parameter == name) and batch >= since

    def act() -> str:
        def change(stages: Sequence[nn.Module]) -> None:
            CHANGES[kind](stages[k], stages[k].get_parameter(name))

        known = kind in VALUES and not training.delays.per_stage[k]
        _, twins = training.by_reference(frozen, {(k, since): change} if known else {})
        changing = Changing(hook, epoch, change)
        _train(training, steps, changing, random.choice([None, True]))
        check(training, [], [], twins, f"{kind}, {hook} of epoch {epoch}, {name} of stage {k}; ")
        return "equal"

    return act


class Changing(pl.Callback):
    """Changes the stages once, at a hook of an epoch."""

    def __init__(self, hook: str, epoch: int, change: Callable[[nn.ModuleList], object]) -> None:
        def at_hook(trainer: pl.Trainer, module: PipelinedModule, *_: object) -> None:
            if trainer.current_epoch == epoch and not trainer.sanity_checking:
                change(module.stages)

        setattr(self, hook, at_hook)


def _train(training: Training, steps: int, callback: pl.Callback, unfreezes: bool | None) -> None:
    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        made = OPTIMIZERS[training.optimizer](parameters)
        made.param_groups[0]["lr"] = training.rates[0]
        return made

    history, options = make_strategy(training.strategy), {"gradient_clip_norm": training.clip, "unfreezes": unfreezes}
    module = PipelinedModule(training.stages, training.delays, history, optimizer=optimizer, **options)
    batches = training.batches[:steps]
    size = len(batches[0][1])
    loader = DataLoader(TensorDataset(*(torch.cat(column) for column in zip(*batches, strict=True))), size)
    trainer(EPOCHS, callbacks=[callback], enable_checkpointing=False).fit(module, loader, loader)
    training.stages = list(module.stages)
