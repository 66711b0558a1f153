"""What a program must give: the clock-driven reference, with epochs, validations and callbacks around it."""

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.strategies.names import NamedStrategy
from tests.programs.layers import Counter
from tests.programs.program import COMPOSED, VALUES, ByEpoch, Found, Program
from tests.reference import Clock, Method, NewMethod, Stage, Weights, delay_of, make_method, tick_through
from tests.strategies.test_three_places import CASES

Batches = list[tuple[Tensor, Tensor]]


class ProgramStage(Stage):
    """A stage that also has random numbers of its own, and remembers weights and buffers of the ends of epochs."""

    def __init__(self, program: Program, index: int, modules: list[nn.Sequential], delay: int) -> None:
        self.program, self.index, self.delay, self.start = program, index, delay, 0
        self.everything = [p for module in modules for p in module.parameters()]
        super().__init__(modules[index], self._optimizer, self._method, delay, self._is_frozen, program.accumulate)
        self.all_weights, self.all_buffers = [self.weights()], [self._buffers()]
        self.random = torch.Generator().manual_seed(program.seed + 1_000_003 * (index + 1)).get_state()

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Groups are made of all parameters; of each the stage has its own."""
        made, own = self.program.make_optimizer(self.everything, torchs=True), set(parameters)
        for group in made.param_groups:
            group["params"] = [p for p in group["params"] if p in own]
        return made

    def _method(self, delay: int, start: Weights) -> Method:
        name = self.program.strategy
        if name in CASES:
            return CASES[name][1](None, delay, [start])
        if name in COMPOSED:
            return NewMethod(NamedStrategy(name, "", "", "average", COMPOSED[name]), delay, [start])
        return make_method(name, delay, start)

    def _is_frozen(self, batch: int, name: str) -> bool:
        return self.program.is_frozen(f"{self.index}.{name}", self.start + batch)

    def _buffers(self) -> Weights:
        return {name: b.clone() for name, b in self.module.named_buffers()}

    def refill(self, start: int) -> None:
        """Empty, before mini-batch ``start``."""
        self.start, self.shown = start, None
        self.method = self._method(self.delay, self.weights())

    def forward(self, batch: int, x: Tensor, lr: float) -> Tensor:
        done = self.start + batch
        if done > 0 and done % len(self.program.loader()) == 0 and not self.program.average:  # else that of averages
            self._evaluate()
        outside = torch.get_rng_state()
        torch.set_rng_state(self.random)
        y = super().forward(batch, x, lr)
        self.random = torch.get_rng_state()
        torch.set_rng_state(outside)
        self.all_buffers.append(self._buffers())
        return y

    def _evaluate(self) -> None:
        """What an evaluation leaves in the buffers."""
        for layer in self.module.modules():
            if isinstance(layer, Counter) and layer.evaluations:
                layer.seen += len(self.program.loader(validation=True))

    def update(self, *args: Any) -> None:
        super().update(*args)
        self._change(len(self.all_weights))
        self.all_weights.append(self.weights())

    def _change(self, updates: int) -> None:
        """A callback's change of a value, after so many updates."""
        if self.program.change is None:
            return
        kind, hook, epoch, name = self.program.change
        k, _, within = name.partition(".")
        since = (epoch + (hook != "on_train_epoch_start")) * (len(self.program.loader()) // self.accumulate)
        if kind in VALUES and int(k) == self.index and since == updates:
            VALUES[kind](self.module, self.module.get_parameter(within))
            self.method.past[-1] = self.weights()


def clock_of(program: Program) -> Clock:
    if isinstance(program.delays, str):
        return DELAY_LAWS[program.delays].clock
    return lambda K, k: (K, 0, K * program.law.per_stage[k] + K - 1 - k)


def by_reference(program: Program, moved: Callable[[Tensor], Tensor] = lambda x: x) -> Found:
    """``moved``: changes inputs, to see what rounding does."""
    clock, K, each = clock_of(program), len(program.cut), program.accumulate
    modules = program.stages()
    stages = [ProgramStage(program, k, modules, math.ceil(delay_of(clock(K, k)) / each)) for k in range(K)]
    for stage in stages:
        stage._change(0)
    epochs = [[(moved(x), y) for x, y in batches] for batches in _epochs(program)]
    runs = epochs if program.drain else [[batch for batches in epochs for batch in batches]]
    losses: list[float] = []
    for run in runs:
        done = len(losses)
        for stage in stages:
            stage.refill(done)
        losses += tick_through(stages, run, clock, partial(_rate, program, done // each), program.clip)
    shown = [_averaged(stage.all_weights) if program.average else stage.all_weights for stage in stages]
    validation = [(moved(x), y) for x, y in program.loader(validation=True)]
    found: list[float] = []
    for epoch in range(1, program.epochs + 1):
        n = epoch * len(epochs[0])
        states = [w[n // each] | stage.all_buffers[n] for w, stage in zip(shown, stages, strict=True)]
        values, left = _evaluated([stage.module for stage in stages], states, validation)
        found += values
    weights = [state | buffers for state, buffers in zip(states, left, strict=True)]
    return Found(losses, found, {f"{k}.{name}": v for k, state in enumerate(weights) for name, v in state.items()})


def _rate(program: Program, before: int, update: int) -> float:
    return program.rate(before + update)


def _epochs(program: Program) -> list[Batches]:
    loader, found = program.loader(), []
    for epoch in range(program.epochs):
        if isinstance(loader.sampler, ByEpoch):
            loader.sampler.set_epoch(epoch)
        found.append(list(islice(loader, len(loader))))  # a sampler that ends draws once more
    return found


def _averaged(weights: list[Weights]) -> list[Weights]:
    """After every update, a tenth of the way to the new weights; the first update starts it."""
    found = [weights[0], weights[1]]
    for now in weights[2:]:
        found.append({name: 0.9 * old + 0.1 * now[name] for name, old in found[-1].items()})
    return found


def _evaluated(
    modules: list[nn.Sequential], states: list[Weights], batches: Batches
) -> tuple[list[float], list[Weights]]:
    """The losses, and the buffers afterwards."""
    twins = copy.deepcopy(modules)
    for twin, state in zip(twins, states, strict=True):
        twin.load_state_dict(state)
    whole = nn.Sequential(*twins).eval()
    with torch.no_grad():
        losses = [float(F.cross_entropy(whole(x), y)) for x, y in batches]
    return losses, [dict(twin.named_buffers()) for twin in twins]


def distance(one: Found, other: Found, program: Program) -> float:
    """The largest difference of losses, weights and buffers; infinite where there are not as many."""
    pairs = [(one.losses, other.losses)]
    pairs += [(one.validations, other.validations)] if program.change is None else []
    if any(len(a) != len(b) for a, b in pairs) or one.weights.keys() != other.weights.keys():
        return math.inf
    worst = max((abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True)), default=0.0)
    counted = [name for name in one.weights if "num_batches" not in name]  # which the reference doesn't count
    return max(worst, *(float((one.weights[n] - other.weights[n]).abs().max()) for n in counted))
