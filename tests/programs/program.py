"""Programs that train: what a user may put together, drawn by Hypothesis, and how a ``Trainer`` runs one."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate as running_sum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from pytorch_lightning.callbacks import EMAWeightAveraging, LambdaCallback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from experiments.field.compensation import DelayCompensation
from experiments.field.prediction import SpecTrain
from layerpipe2 import Delays, PipelinedModule, make_strategy, optim
from layerpipe2.strategies import ErrorFeedback, StashFirst, Strategy, chain
from tests.programs.layers import HIDING, INPUTS, SIZE, UNITS
from tests.strategies.test_three_places import CASES
from tests.test_reference import ALL, OTHER

CLASSES = 3
Maker = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, tuple[Maker, float, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, 0.05, {}),
    "momentum": (torch.optim.SGD, 0.02, {"momentum": 0.9, "weight_decay": 1e-2}),
    "nesterov": (torch.optim.SGD, 0.02, {"momentum": 0.8, "nesterov": True}),
    "in one pass": (optim.SGD, 0.02, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    "dampened": (torch.optim.SGD, 0.03, {"momentum": 0.7, "dampening": 0.3}),
    "adamw": (torch.optim.AdamW, 0.01, {"weight_decay": 0.1, "eps": 1e-2}),
    "adamw in one pass": (optim.AdamW, 0.01, {"weight_decay": 0.1, "eps": 1e-2}),
    "amsgrad": (torch.optim.Adam, 0.01, {"amsgrad": True, "eps": 1e-2}),
    "nadam": (torch.optim.NAdam, 0.01, {"eps": 1e-2}),
    "radam": (torch.optim.RAdam, 0.01, {"eps": 1e-2}),
    "adamax": (torch.optim.Adamax, 0.01, {"eps": 1e-2}),
    "adagrad": (torch.optim.Adagrad, 0.02, {"eps": 1e-2}),
    "rmsprop": (torch.optim.RMSprop, 0.01, {"eps": 1e-2, "momentum": 0.5, "centered": True}),
    "adadelta": (torch.optim.Adadelta, 0.5, {"eps": 1e-2}),
    "asgd": (torch.optim.ASGD, 0.05, {}),
}
"""Class, rate, settings. A large eps: a bias before BatchNorm has no gradient but rounding."""
TORCHS: dict[Any, Maker] = {optim.SGD: torch.optim.SGD, optim.AdamW: torch.optim.AdamW}
"""What the reference has in the place of the package's own."""
PREDICTED = ("momentum", "nesterov", "dampened", "in one pass", "sgd", "rmsprop", "adamw")
COMPOSED: dict[str, Callable[[], Strategy]] = {
    **{name: lambda strategy=strategy: strategy for name, (strategy, _) in CASES.items()},
    "prediction, average": lambda: chain(SpecTrain(), make_strategy("ema-span")),
    "prediction, stash": lambda: chain(SpecTrain(), make_strategy("stash")),
    "compensation, latest": lambda: chain(DelayCompensation(0.2), make_strategy("latest")),
    "feedback, window": lambda: chain(ErrorFeedback(), make_strategy("update-window")),
    "feedback, average": lambda: chain(ErrorFeedback(), make_strategy("ema-window")),
    "stash first": lambda: StashFirst(then=make_strategy("ema-lsq"), updates=4),
    "stash first, pair": lambda: StashFirst(then=make_strategy("pair"), updates=7),
}
EVERY = (*ALL, *OTHER, *COMPOSED)
VALUES: dict[str, Callable[[nn.Sequential, nn.Parameter], object]] = {
    "in place": lambda stage, p: p.detach().mul_(0.5),
    "through .data": lambda stage, p: p.data.add_(0.1),
    "new .data": lambda stage, p: setattr(p, "data", p.data * 0.5),
    "initialized": lambda stage, p: nn.init.constant_(p.data, 0.1),
}
"""Changes of a parameter's value between two epochs."""
CHANGES = VALUES | {
    "parameter replaced": lambda stage, p: _replace(stage, p),
    "parameter added": lambda stage, p: stage.register_parameter("extra", nn.Parameter(torch.ones(1))),
    "layer replaced": lambda stage, p: stage.__setitem__(0, copy.deepcopy(stage[0])),
    "layer added": lambda stage, p: stage.append(nn.Tanh()),
    "layer removed": lambda stage, p: stage.__setitem__(len(stage) - 1, nn.Identity()),
}
GROUPS = ("one", "vectors faster", "last two faster")
HOOKS = ("on_train_epoch_start", "on_train_epoch_end", "on_validation_start", "on_validation_end")


def _replace(stage: nn.Sequential, parameter: nn.Parameter) -> None:
    for layer in stage.modules():
        for name, own in list(layer.named_parameters(recurse=False)):
            if own is parameter:
                setattr(layer, name, nn.Parameter(parameter.detach().clone()))


@dataclass(frozen=True)
class Program:
    """What is trained and how. ``cut``: units per stage. ``frozen``: parameter -> first and first free mini-batch."""

    inputs: str
    units: tuple[str, ...]
    cut: tuple[int, ...]
    delays: str | tuple[int, ...]
    strategy: str
    optimizer: str = "sgd"
    groups: str = "one"
    schedule: str | None = None
    clip: float | None = None
    clip_by: str = "setting"
    accumulate: int = 1
    drain: bool = False
    split_backward: bool = False
    epochs: int = 1
    batch: int = 4
    batches: int = 4
    smaller: int = 0  # rows that the last mini-batch of an epoch lacks
    order: str = "in order"
    frozen: tuple[tuple[str, int, int], ...] = ()
    announced: bool = True
    halved: int | None = None  # the epoch before which a callback halves the rate
    change: tuple[str, str, int, str] | None = None  # kind, hook, epoch, parameter
    average: bool = False
    resumed: int | None = None  # the epoch after which a checkpoint is taken up
    seed: int = 0
    processes: int = 1

    @property
    def law(self) -> Delays:
        if isinstance(self.delays, str):
            return Delays.by_law(self.delays, len(self.cut))
        return Delays.custom(self.delays)

    def stages(self) -> list[nn.Sequential]:
        """Flat rows of layers in float64, always the same."""
        torch.manual_seed(self.seed)
        units = [*INPUTS[self.inputs][0](), *(UNITS[name]() for name in self.units), [nn.Linear(SIZE, CLASSES)]]
        ends = pairwise([0, *running_sum(self.cut)])
        return [nn.Sequential(*(layer for unit in units[a:b] for layer in unit)).double() for a, b in ends]

    def loader(self, validation: bool = False) -> DataLoader:
        """Of noise with classes."""
        generator = torch.Generator().manual_seed(self.seed + 1 + validation)
        size, shape = self.batch * self.batches - self.smaller, INPUTS[self.inputs][1]
        x = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
        if self.inputs == "tokens":
            x = torch.randint(6, (size, *shape), generator=generator)
        data = TensorDataset(x, torch.randint(CLASSES, (size,), generator=generator))
        if validation:
            return DataLoader(data, 3)
        sampler = ByEpoch(size, self.seed) if self.order == "by epoch" else None
        shuffled = {"shuffle": True, "generator": generator} if self.order == "shuffled" else {}
        return DataLoader(data, self.batch, sampler=sampler, drop_last=self.order == "last dropped", **shuffled)

    def make_optimizer(self, parameters: Iterable[nn.Parameter], *, torchs: bool = False) -> torch.optim.Optimizer:
        kind, rate, settings = OPTIMIZERS[self.optimizer]
        kind = TORCHS.get(kind, kind) if torchs else kind
        given = list(parameters)
        if self.groups == "one":
            return kind(given, lr=rate, **settings)
        faster = [p for p in given if p.ndim < 2] if self.groups == "vectors faster" else given[-2:]
        groups = [
            {"params": [p for p in given if not any(p is own for own in faster)], "lr": rate, "factor": 1.0},
            {"params": faster, "lr": 2 * rate, "factor": 2.0, **({"weight_decay": 0.0} if settings else {})},
        ]
        return kind([group for group in groups if group["params"]], lr=rate, **settings)

    def rate(self, update: int) -> float:
        """Of the first group."""
        epoch = update // (len(self.loader()) // self.accumulate)
        factor = {None: 1.0, "step": 0.95**update, "epoch": 0.8**epoch}[self.schedule]
        return OPTIMIZERS[self.optimizer][1] * factor * (0.5 if self.halved is not None and epoch >= self.halved else 1)

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        decay = 0.95 if self.schedule == "step" else 0.8
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: decay**n)

    def make_strategy(self) -> Strategy:
        return COMPOSED[self.strategy]() if self.strategy in COMPOSED else make_strategy(self.strategy)

    def is_frozen(self, name: str, batch: int) -> bool:
        return any(name == own and first <= batch < free for own, first, free in self.frozen)

    @property
    def may_be_refused(self) -> bool:
        """Whether there is something in it that a pipeline need not train."""
        late, strategy, each = max(self.law.per_stage) > 0, self.make_strategy(), self.accumulate
        odd = strategy.fixed_lag and any(d % each for d in self.law.per_stage)
        return (
            self.change is not None
            or (self.strategy.startswith("prediction") and self.optimizer in ("sgd", "rmsprop", "adamw"))
            or (late and not {*self.units}.isdisjoint(HIDING))
            or ((late or self.processes > 1) and not self.announced and any(a <= 0 < b for _, a, b in self.frozen))
            or (each > 1 and (len(self.loader()) % each > 0 or odd or strategy.acts("gradient")))
            or (self.processes > 1 and self.clip is not None and self.clip_by == "callback")
            or (self.processes > 1 and late and "counter of evaluations" in self.units)
        )


class ByEpoch(Sampler[int]):
    """Another order in every epoch, which a resumed training finds again."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.size


def callbacks(program: Program) -> Iterator[pl.Callback]:
    """All that the program has."""
    if program.frozen:
        freeze = partial(_freeze, program)
        yield LambdaCallback(setup=lambda trainer, module, stage: freeze(trainer, module), on_train_batch_start=freeze)
    if program.halved is not None:
        yield LambdaCallback(on_train_epoch_start=partial(_halve, program))
    if program.clip and program.clip_by == "callback":
        hook = "on_after_backward" if program.accumulate == 1 else "on_before_optimizer_step"
        yield LambdaCallback(**{hook: partial(_clip, program)})
    if program.change is not None:
        yield LambdaCallback(**{program.change[1]: partial(_change, program)})
    if program.average:
        yield EMAWeightAveraging(decay=0.9, use_buffers=False)


def _freeze(program: Program, trainer: pl.Trainer, module: Any, batch: Any = None, i: int = 0) -> None:
    done = trainer.current_epoch * len(program.loader()) + i
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not program.is_frozen(name.removeprefix("stages."), done))


def _halve(program: Program, trainer: pl.Trainer, module: Any) -> None:
    for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
        group["lr"] *= 0.5 if trainer.current_epoch == program.halved else 1.0


def _clip(program: Program, trainer: pl.Trainer, module: Any, *_: Any) -> None:
    for stage in module.stages:
        nn.utils.clip_grad_norm_(stage.parameters(), program.clip)


def _change(program: Program, trainer: pl.Trainer, module: Any) -> None:
    kind, _, epoch, name = program.change
    k, _, within = name.partition(".")
    for own, stage in module.stages.named_children():
        if own == k and trainer.current_epoch == epoch:
            CHANGES[kind](stage, stage.get_parameter(within))


@dataclass
class Found:
    """Losses of the training's mini-batches, those of validations, weights and buffers by name."""

    losses: list[float]
    validations: list[float]
    weights: dict[str, Tensor]


class Recorder:
    """A loss that notes what it returns."""

    def __init__(self) -> None:
        self.noted: dict[bool, list[float]] = {True: [], False: []}

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, y)
        self.noted[outputs.requires_grad].append(float(loss.detach()))
        return loss


def by_trainer(program: Program, place: Callable[[], Any] = lambda: "auto", folder: str | None = None) -> Found:
    """Run by a ``Trainer`` with the strategy that ``place`` makes."""
    loss = Recorder()
    with tempfile.TemporaryDirectory() as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder or own)
        if program.resumed is not None:
            _fit(program, place, loss, path, program.resumed)
        resume = str(path / "last.ckpt") if program.resumed is not None else None
        module = _fit(program, place, loss, path, program.epochs, resume)
    weights = {n.removeprefix("stages."): v.detach().clone() for n, v in module.state_dict().items() if "stages" in n}
    return Found(loss.noted[True], loss.noted[False], weights)


def _fit(program: Program, place: Any, loss: Recorder, folder: Path, epochs: int, resume: str | None = None) -> Any:
    module = PipelinedModule(
        program.stages(),
        program.law,
        program.make_strategy(),
        optimizer=program.make_optimizer,
        loss=loss,
        scheduler=program.make_scheduler if program.schedule else None,
        scheduler_interval=program.schedule or "epoch",
        gradient_clip_norm=program.clip if program.clip_by == "setting" else None,
        drain=program.drain,
        stage_seed=program.seed,
        unfreezes=True if program.announced else None,
        accumulate=program.accumulate,
    )
    saves = program.resumed is not None
    keeping = [ModelCheckpoint(folder, save_last=True)] if saves else []
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=epochs,
        strategy=place(),
        devices=1,
        callbacks=[*callbacks(program), *keeping],
        enable_checkpointing=saves,
        num_sanity_val_steps=0,
        **quiet,
    )
    trainer.fit(module, program.loader(), program.loader(validation=True), ckpt_path=resume)
    return module


@st.composite
def programs(draw: Callable, processes: int = 1, strategies: Sequence[str] = EVERY) -> Program:
    """Any program with one of the strategies; most of them train."""

    def chosen(*values: Any, plain: int = 0) -> Any:
        """One of the values; the first one ``plain`` times more often."""
        return draw(st.sampled_from([*[values[0]] * plain, *values]))

    inputs = chosen(*INPUTS)
    units = draw(st.lists(st.sampled_from([name for name in UNITS if name not in HIDING]), min_size=1, max_size=5))
    if chosen(False, True, plain=8):
        units[-1] = chosen(*HIDING)
    number = len(INPUTS[inputs][0]()) + len(units) + 1
    ends = draw(st.sets(st.sampled_from(range(1, number)), min_size=processes - 1))
    cut = tuple(b - a for a, b in pairwise([0, *sorted(ends), number]))
    strategy, batch, accumulate = chosen(*strategies), chosen(3, 4, 5), chosen(1, 2, 3, plain=5)
    batches = chosen(*range(2, 9))
    law = chosen("layerpipe2", "pipedream", "custom", "none", plain=1)
    program = Program(
        inputs,
        tuple(units),
        cut,
        tuple(sorted((chosen(*range(10)) for _ in cut), reverse=True)) if law == "custom" else law,
        strategy,
        optimizer=chosen(*(OPTIMIZERS if not strategy.startswith("prediction") else PREDICTED)),
        groups="one" if strategy in CASES else chosen(*GROUPS, plain=2),
        schedule=chosen(None, "step", "epoch"),
        clip=chosen(None, 0.05, 0.5),
        clip_by=chosen("setting", "callback", plain=6 * processes - 4),
        accumulate=accumulate,
        drain=chosen(False, True, plain=1),
        split_backward=processes > 1 and chosen(False, True),
        epochs=chosen(1, 2, 3),
        batch=batch,
        batches=batches + (-batches % accumulate if chosen(True, False, plain=9) else 0),
        smaller=chosen(*range(batch - 1)) if accumulate == 1 else 0,
        order=chosen("in order", "by epoch", "shuffled", "last dropped"),
        seed=chosen(*range(100)),
        processes=processes,
    )
    return replace(program, **_callbacks(program, chosen))


def _callbacks(program: Program, chosen: Callable) -> dict[str, Any]:
    names = [f"{k}.{name}" for k, stage in enumerate(program.stages()) for name, _ in stage.named_parameters()]
    total, several = program.epochs * len(program.loader()), program.epochs > 1
    kind = chosen("none", "freeze", "halve", "change", "average", "resume", plain=2)
    if kind == "freeze":
        some = [chosen(*names[:-1]) for _ in range(chosen(*range(1, 9)))]
        spans = ((name, *sorted((chosen(*range(-1, total)), chosen(*range(total + 1))))) for name in some)
        return {"frozen": tuple(spans), "announced": chosen(True, False, plain=2)}
    if kind == "halve" and program.schedule is None:
        return {"halved": chosen(*range(program.epochs))}
    if kind == "change" and several:
        change, made = chosen(*CHANGES), len(INPUTS[program.inputs][0]())
        # torch itself would refuse the shapes without a layer that makes features of the inputs.
        fit = [k for k in range(len(program.cut)) if change != "layer removed" or sum(program.cut[: k + 1]) > made]
        there = [name for name in names if int(name.partition(".")[0]) in fit]
        return {"change": (change, chosen(*HOOKS), chosen(*range(program.epochs - 1)), chosen(*there))}
    if kind == "average":
        return {"average": program.processes == 1}
    # torch's NAdam has a factor in float32, which load_state_dict makes one in float64: 1e-10 in any training.
    if kind == "resume" and several and program.order != "shuffled" and program.optimizer != "nadam":
        return {"resumed": chosen(*range(1, program.epochs))}
    return {}
