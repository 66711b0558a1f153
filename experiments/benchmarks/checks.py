"""What the checks of a training step cost: steps with and without them, in turn, in one process.

A step's checks: has something else changed the weights, is the loss finite, are the layers still there. An audited step
(:class:`layerpipe2.engine.epoch.AuditSteps`: an epoch's first, and one in 200) also compares all weights and follows
every operation. Times are the processor's, of this process. Example: python -m experiments.benchmarks.checks
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from layerpipe2 import Delays, make_strategy, partition
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.engine import step
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.engine.watch import WeightWatch
from layerpipe2.lab import networks

CASES = {"mlp of the study": ("mlp", 64), "small CNN": ("vgg", 8), "MLP 8x1024": ("mlp", 1024)}
"""Name -> network and width; digits in mini-batches of 32."""
_CHECKS: tuple[tuple[Any, str, Callable[..., object]], ...] = (
    (step, "is_finite", lambda loss: True),
    (WeightWatch, "check_quickly", lambda watch: None),
    (WeightWatch, "begin_step", lambda watch: None),
    (WeightWatch, "updated", lambda watch: None),
)


@contextmanager
def without_checks() -> Iterator[None]:
    """Have steps look at nothing within the block."""
    with ExitStack() as patches:
        for owner, name, instead in _CHECKS:
            patches.enter_context(patch.object(owner, name, instead))
        yield


class Steps:
    """Training steps of one case, one at a time."""

    def __init__(self, network: str, width: int, strategy: str) -> None:
        torch.manual_seed(0)
        stages = partition(networks.build(network, input_shape=(1, 8, 8), num_classes=10, width=width), 1)
        self.engine = PipelineEngine(stages, Delays.layerpipe2(len(stages)), make_strategy(strategy))
        self.optimizer = torch.optim.SGD([p for s in stages for p in s.parameters()], lr=1e-3, momentum=0.9)
        self.x, self.y = torch.randn(32, 1, 8, 8), torch.randint(10, (32,))

    def seconds(self, *, checked: bool = True, audited: bool = False) -> float:
        """Return the processor's seconds of one step."""
        self.engine.watch.updated()  # what this step compares with
        with ExitStack() as within:
            if not checked:
                within.enter_context(without_checks())
            begin = time.process_time()
            if audited:
                self.engine.audit_next()
            self.engine.train_step(self.x, self.y, F.cross_entropy, self.optimizer)
            return time.process_time() - begin


def ratios(steps: Steps, seconds: float) -> dict[str, list[float]]:
    """Return ratios of a round's steps, in random order, to one without checks: with them, without again, audited."""
    kinds = {"with": {}, "without": {"checked": False}, "again": {"checked": False}, "audited": {"audited": True}}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    end, i = time.monotonic() + seconds, 0
    while time.monotonic() < end or i < 12:
        chosen = random.sample(sorted(kinds), len(kinds))
        times = {kind: steps.seconds(**kinds[kind]) for kind in chosen if kind != "audited" or i % 10 == 1}
        for kind, took in times.items() if i else ():
            found[kind].append(took / times["without"])
        i += 1
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the order statistics that enclose the true one with 95 %."""
    ordered, n = sorted(values), len(values)
    low = max(0, int(n / 2 - 0.98 * n**0.5))
    return ordered[n // 2], ordered[low], ordered[n - 1 - low]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, in percent of a step without checks, what they cost, and what a step differs from itself."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    print(f"{'case':18} {'strategy':11} {'checks, % of a step':>26} {'nothing, %':>24} {'an audit, steps':>16}")
    for case, (network, width) in CASES.items():
        for strategy in ("stash", "ema-window"):
            found = ratios(Steps(network, width, strategy), options.seconds)
            costs = [
                "{:.2f} ({:.2f} to {:.2f})".format(*(100 * (ratio - 1) for ratio in interval(found[kind])))
                for kind in ("with", "again")
            ]
            audit = interval(found["audited"])[0] - 1
            print(f"{case:18} {strategy:11} {costs[0]:>26} {costs[1]:>24} {audit:16.2f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m experiments.benchmarks.checks", description=__doc__)
    parser.add_argument("--seconds", type=within(float, 0, 10_000), default=15, help="per line; default: 15")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("experiments.benchmarks.checks", main, None))
