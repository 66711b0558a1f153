"""Throughput of delayed training as ratios to plain Lightning training of the same network, in one run.

Every round times each variant once, in turn; the table gives medians over the rounds of the ratio to plain Lightning
training in the same round. All variants see the same batches on the same device. Examples:
python -m experiments.benchmarks.training (the table), or with --network resnet18 (one network)
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from experiments.accuracy.estimate import now
from layerpipe2 import Delays, PipelinedModule, make_strategy, optim, partition
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.errors import LARGEST
from layerpipe2.lab import networks
from layerpipe2.lab.data import BatchLoader, TensorSplit
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import check_run

Precision = Literal["native", "bf16"]
_CLASSES = 10
DELAYED = ("stash", "latest", "ema-span", "pair")


class Setting(NamedTuple):
    """What is trained; ``steps`` are timed per round."""

    network: str
    width: int | None
    input_shape: tuple[int, int, int]
    batch_size: int
    steps: int


SETTINGS = {
    "MLP 8 x 1024, batch 16": Setting("mlp", 1024, (1, 8, 8), 16, 60),
    "MLP 8 x 1024, batch 128": Setting("mlp", 1024, (1, 8, 8), 128, 30),
    "MLP 8 x 64, batch 32": Setting("mlp", 64, (1, 8, 8), 32, 600),
    "VGG, width 8, batch 32": Setting("vgg-small", 8, (1, 8, 8), 32, 300),
    "ResNet-14, width 8, batch 32": Setting("resnet-small", 8, (1, 8, 8), 32, 100),
}
"""The table's rows."""


class Variant(NamedTuple):
    """What is timed: a strategy or ``plain``, its arithmetic, whether a step is one CUDA graph, an update one pass."""

    strategy: str
    precision: Precision = "native"
    graph: bool = False
    one_pass: bool = False


class Plain(pl.LightningModule):
    """The network as anybody would train it in Lightning: automatic optimization, nothing logged."""

    def __init__(self, layers: list[torch.nn.Module], fused: bool) -> None:
        super().__init__()
        self.net, self.fused = torch.nn.Sequential(*layers), fused

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross-entropy of one mini-batch."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, as the pipelines have."""
        return make_optimizer(self.parameters(), self.fused)


class Clock(pl.Callback):
    """Seconds per step after ``warmup`` steps."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.start = warmup, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        if batch_idx == self.warmup:
            self.start = now(pl_module.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop the clock."""
        self.seconds = (now(pl_module.device) - self.start) / (trainer.global_step - self.warmup)


def make_optimizer(parameters: Any, fused: bool, one_pass: bool = False) -> torch.optim.Optimizer:
    """SGD with momentum 0.9."""
    kind = optim.SGD if one_pass else torch.optim.SGD
    return kind(parameters, lr=1e-3, momentum=0.9, fused=fused)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all variants of one network or of the table's, and print ratios.

    Raises:
        UserError: on an unknown network, or a number that is no count.
    """
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    settings = SETTINGS
    if options.network is not None:
        one = Setting(options.network, options.width, tuple(options.input_shape), options.batch_size, options.steps)
        settings = {f"{one.network}, batch {one.batch_size}": one}
    print(f"{device}, {options.threads} threads, n = {options.rounds} rounds; [least, largest] ratio")
    for name, one in settings.items():
        sizes = RunConfig(network=one.network, strategy="sequential", width=one.width, batch_size=one.batch_size)
        check_run(sizes, one.input_shape, _CLASSES)
        _compare(name, one, options, device)


def _compare(name: str, setting: Setting, options: argparse.Namespace, device: torch.device) -> None:
    """Print seconds per step of every variant, and their ratios to plain Lightning's by round."""
    variants = _variants(device)
    rounds = [
        {n: _time(setting, options.warmup, device, v) for n, v in variants.items()} for _ in range(options.rounds)
    ]
    print(f"\n{name:28} {'ms/step':>9} {'/plain':>8}")
    for variant in variants:
        median = statistics.median(times[variant] for times in rounds)
        ratios = [times[variant] / times["plain Lightning"] for times in rounds]
        spread = f"{statistics.median(ratios):7.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"{variant:28} {median * 1e3:9.2f} {spread}", flush=True)


def _variants(device: torch.device) -> dict[str, Variant]:
    strategies = {"sequential": "sequential"} | {f"per layer, {name}": name for name in DELAYED}
    forms: dict[str, tuple[Precision, bool, bool]] = {
        "": ("native", False, False),
        ", one pass": ("native", False, True),
    }
    if device.type == "cuda":
        forms = {
            "": ("native", False, False),
            ", bf16": ("bf16", False, False),
            ", graph": ("native", True, False),
            ", bf16, graph": ("bf16", True, False),
        }
    found = {
        name + words: Variant(strategy, *form) for words, form in forms.items() for name, strategy in strategies.items()
    }
    return {"plain Lightning": Variant("plain")} | found


def _time(setting: Setting, warmup: int, device: torch.device, variant: Variant) -> float:
    torch.manual_seed(0)
    shape = setting.input_shape
    layers = networks.build(setting.network, input_shape=shape, num_classes=_CLASSES, width=setting.width)
    cuda = device.type == "cuda"
    if cuda:
        layers = [layer.to(memory_format=torch.channels_last) for layer in layers]  # type: ignore[call-overload]
    model: pl.LightningModule = Plain(layers, cuda)
    if variant.strategy != "plain":
        stages = partition(layers, len(layers) if variant.strategy == "sequential" else 1)
        delays, history = Delays.layerpipe2(len(stages)), make_strategy(variant.strategy)
        form: dict[str, Any] = {"precision": variant.precision, "cuda_graph": variant.graph}
        form["optimizer"] = partial(make_optimizer, fused=cuda, one_pass=variant.one_pass)
        model = PipelinedModule(stages, delays, history, **form)
    n = setting.batch_size * (setting.steps + warmup)
    data = TensorSplit(torch.randint(0, 256, (n, *shape), dtype=torch.uint8), torch.randint(_CLASSES, (n,)))
    channels = [0.5] * shape[0]
    loader = BatchLoader(data, setting.batch_size, mean=channels, std=channels, seed=0, augment=True, device=device)
    clock = Clock(warmup)
    with running_lightning("You defined a `validation_step`"):
        quiet_trainer(1, device, [clock], limits=(None, 0)).fit(model, loader)
    return clock.seconds


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m experiments.benchmarks.training", description=__doc__)
    add, size, count = parser.add_argument, within(int, 1, LARGEST), within(int, 1, 1000)
    add("--network", help="one network; default: the table's")
    add("--width", type=size, help="base width; default: the network's own")
    add("--input-shape", type=size, nargs=3, default=[3, 32, 32], help="C H W")
    add("--batch-size", type=size, default=128, help="images per mini-batch")
    add("--steps", type=count, default=20, help="timed steps per round")
    add("--warmup", type=within(int, 0, 1000), default=20, help="untimed steps per round")
    add("--rounds", type=count, default=5, help="times that each variant is timed")
    add("--threads", type=within(int, 1, 1024), default=1, help="CPU threads")
    add("--cpu", action="store_true", help="time on the CPU even where there is a CUDA device")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("experiments.benchmarks.training", main, None))
