"""Random small trainings: the fast engine against the clock-driven pipeline of tests/reference.py."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2 import Delays, make_strategy, partition
from layerpipe2.engine.step import PipelineEngine
from tests.chaos.attack import Act, Failed, Scene
from tests.reference import CLOCKS, run_clocked
from tests.test_reference import ALL, OPTIMIZERS, OTHER

CLASSES = 4
TOLERANCE = 1e-12
_EPSILON = 2.0**-52
Frozen = Callable[[int, int, str], bool]


@dataclass
class Training:
    """A training that engine and reference both can do, in float64."""

    stages: list[nn.Sequential]
    batches: list[tuple[Tensor, Tensor]]
    delays: Delays
    strategy: str
    optimizer: str
    clip: float | None
    rates: list[float]

    def by_reference(
        self,
        frozen: Frozen = lambda stage, batch, name: False,
        changes: Mapping[tuple[int, int], Callable[[list[nn.Sequential]], object]] | None = None,
    ) -> tuple[list[float], list[nn.Sequential]]:
        """Losses, and the trained stages; ``changes``: (stage, its updates until then) -> change of the stages."""
        stages, counts, changes = copy.deepcopy(self.stages), Counter[int](), changes or {}
        CLOCKS["custom"] = lambda K, k: (K, 0, K * self.delays.per_stage[k] + K - 1 - k)

        def change(k: int) -> None:
            changes.get((k, counts[k]), lambda stages: None)(stages)
            counts[k] += 1

        def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            made = OPTIMIZERS[self.optimizer](own := list(parameters))
            k = next(k for k, stage in enumerate(stages) if own[0] is next(stage.parameters(), None))
            change(k)
            made.register_step_post_hook(lambda *_: change(k))
            return made

        losses = run_clocked(
            stages,
            self.batches,
            strategy=self.strategy,
            convention=self.delays.convention,
            make_optimizer=optimizer,
            lr_of=lambda t: self.rates[t],
            clip=self.clip,
            frozen=frozen,
        )
        return losses, stages

    def describe(self) -> str:
        """For a report."""
        settings = f"{self.strategy}, {self.optimizer}, clip {self.clip}, delays {self.delays.per_stage}"
        return f"{settings}, {len(self.batches)} mini-batches, {[list(stage) for stage in self.stages]}"


def draw(random: Random, steps: int) -> Training:
    """A random training."""
    torch.manual_seed(random.getrandbits(32))
    shape, units = random.choice([_dense, _convolutions])(random)
    cut = partition(units, random.randint(1, len(units)))
    stages = [nn.Sequential(*(layer for unit in stage for layer in unit)).double() for stage in cut]
    law = random.choice(["layerpipe2", "pipedream", "custom"])
    late = sorted((random.randint(0, 9) for _ in stages), reverse=True)
    # A bias before BatchNorm has no gradient but rounding, which AdamW scales up to the size of all others.
    norms = [layer for stage in stages for layer in stage if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:  # behind dead channels it gives its shift: at 0, ReLU's kink, rounding would decide
        nn.init.normal_(layer.bias)
    optimizer = random.choice([name for name in OPTIMIZERS if name != "adamw" or not norms])
    rate = 0.002 if optimizer == "adamw" else 0.02
    size = random.randint(2, 8)
    return Training(
        stages,
        [(torch.randn(size, *shape).double(), torch.randint(CLASSES, (size,))) for _ in range(steps)],
        Delays.custom(late) if law == "custom" else Delays.by_law(law, len(stages)),
        random.choice(ALL + OTHER),
        optimizer,
        random.choice([None, None, 0.05, 1.0]),
        random.choice([[rate] * steps, [rate * (1 + math.cos(t / 8)) for t in range(steps)]]),
    )


def _dense(random: Random) -> tuple[tuple[int, ...], list[nn.Sequential]]:
    widths = [random.randint(1, 9) for _ in range(random.randint(1, 7))]
    units = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return (widths[0],), [*units, nn.Sequential(nn.Linear(widths[-1], CLASSES))]


def _convolutions(random: Random) -> tuple[tuple[int, ...], list[nn.Sequential]]:
    side, channels, units = random.randint(3, 6), random.randint(1, 3), []
    first = (channels, side, side)
    for _ in range(random.randint(1, 4)):
        wider, kernel, stride = random.randint(1, 4), random.choice([1, 3]), random.choice([1, 1, 2])
        layers = [nn.Conv2d(channels, wider, kernel, stride, kernel // 2), nn.BatchNorm2d(wider), nn.ReLU()]
        units.append(nn.Sequential(layers[0], *random.choice([layers[1:], layers[2:], layers[1:2]])))
        channels, side = wider, (side - 1) // stride + 1
    return first, [*units, nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, CLASSES))]


def draw_plan(random: Random, training: Training) -> Frozen:
    """Which parameters are frozen at which mini-batch; the network never is as a whole."""
    steps, names = (
        len(training.batches),
        [(k, n) for k, s in enumerate(training.stages) for n, _ in s.named_parameters()],
    )
    chosen = random.sample(names, random.randint(0, len(names) - 1)) if random.random() < 0.6 else []
    spans = {name: sorted(random.sample(range(-1, steps + 1), 2)) for name in chosen}
    return lambda stage, batch, name: (stage, name) in spans and spans[stage, name][0] <= batch < spans[stage, name][1]


def _rounded(x: Tensor) -> Tensor:
    """Every second number a last bit larger, the others smaller: BatchNorm would undo a common factor."""
    signs = 1 - 2 * (torch.arange(x.numel(), dtype=x.dtype) % 2)
    return x * (1 + _EPSILON * signs.reshape(x.shape))


def compared(scene: Scene) -> Act:
    """The engine's losses and weights are the reference's to 1e-12, or to what a rounding of inputs does to those."""
    training = draw(scene.random, scene.random.randint(3, 30))
    frozen = draw_plan(scene.random, training)

    def act() -> str:
        losses, twins = training.by_reference(frozen)
        untrained = copy.deepcopy(training.stages)
        found, allowed = _by_engine(training, frozen), TOLERANCE
        if not distance(found, losses, training.stages, twins) <= allowed:
            moved = replace(training, stages=untrained, batches=[(_rounded(x), y) for x, y in training.batches])
            other, others = moved.by_reference(frozen)
            allowed = max(allowed, 1000 * distance(other, losses, others, twins))
        check(training, found, losses, twins, allowed=allowed)
        return "equal"

    return act


def _by_engine(training: Training, frozen: Frozen) -> list[float]:
    stages, losses = training.stages, []
    _freeze(stages, frozen, 0)
    history = make_strategy(training.strategy)
    options: dict[str, Any] = {"gradient_clip_norm": training.clip, "unfreezes": True}
    engine = PipelineEngine(stages, training.delays, history, **options)
    optimizer = OPTIMIZERS[training.optimizer]([p for stage in stages for p in stage.parameters()])
    for t, (x, y) in enumerate(training.batches):
        _freeze(stages, frozen, t)
        optimizer.param_groups[0]["lr"] = training.rates[t]
        losses.append(float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]))
    return losses


def _freeze(stages: list[nn.Sequential], frozen: Frozen, batch: int) -> None:
    for k, stage in enumerate(stages):
        for name, parameter in stage.named_parameters():
            parameter.requires_grad_(not frozen(k, batch, name))


def check(
    training: Training,
    losses: list[float],
    expected: list[float],
    twins: list[nn.Sequential],
    what: str = "",
    allowed: float = TOLERANCE,
) -> None:
    """Raises Failed if losses, weights or buffers differ."""
    worst = distance(losses, expected, training.stages, twins)
    if not worst <= allowed:
        raise Failed("different", f"{what}by {worst:.1e}: {training.describe()}")


def distance(
    losses: list[float], expected: list[float], stages: list[nn.Sequential], twins: list[nn.Sequential]
) -> float:
    """Of two trainings: the largest difference of losses, weights and buffers."""
    worst = max([abs(a - b) for a, b in zip(losses, expected, strict=True)], default=0.0)
    for mine, theirs in zip(stages, twins, strict=True):
        for (name, a), b in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            if "num_batches" not in name:  # the reference doesn't count them
                worst = max(worst, float((a - b).abs().max()))
    return worst
