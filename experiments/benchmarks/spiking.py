"""Forward and backward pass of a spiking network: one filter for both directions against unrolled autograd.

Both run in turns; times are medians, and memory is what autograd keeps of one mini-batch, beside weights.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.cli.options import within
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.saved_weights import storage_of
from layerpipe2.errors import LARGEST
from layerpipe2.lab import networks
from layerpipe2.spiking import RESETS, Neuron, Neurons, unrolled
from layerpipe2.spiking.lean import SpikePool

_SHAPE, _CLASSES = (1, 28, 28), 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Print seconds, bytes and ratios for the neurons alone and for the network, with every reset."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    print(f"{options.network}, batch {options.batch_size}, {options.steps} time steps, {options.threads} thread(s)")
    print(f"{'':24} {'reset':9} {'one filter':>22} {'unrolled':>22} {'time':>7} {'memory':>7}")
    for reset in RESETS:
        made = partial(networks.build, options.network, input_shape=_SHAPE, num_classes=_CLASSES)
        torch.manual_seed(0)
        units = nn.Sequential(*made(spiking={"time_steps": options.steps, "reset": reset}))
        neurons = nn.Sequential(Neurons(_first(units).neuron, options.steps))
        x = torch.randn(options.batch_size, *_SHAPE)
        wide = torch.randn(options.steps * options.batch_size, 8, 28, 28).requires_grad_()
        for what, module, inputs in (("neurons", neurons, wide), (options.network, units, x)):
            _compare(what, reset, {"one filter": module, "unrolled": plain_copy(module)}, inputs, options.rounds)


def _first(units: nn.Module) -> Neurons:
    return next(module for module in units.modules() if isinstance(module, Neurons))


def plain_copy(module: nn.Module, run: Callable[[Neuron, torch.Tensor], torch.Tensor] = unrolled) -> nn.Module:
    """Return it with neurons, normalisation and pooling apart, each by plain autograd, or neurons by ``run``."""
    copy = nn.Sequential(deepcopy(module))
    for part in copy.modules():
        for name, child in part.named_children():
            if isinstance(child, SpikePool):
                setattr(part, name, nn.MaxPool2d(2))
        if isinstance(part, Neurons):
            part.run = run
    return copy[0]


def _compare(what: str, reset: str, modules: dict[str, nn.Module], x: torch.Tensor, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for number in range(rounds + 1):
        for name, module in modules.items():
            start = time.perf_counter()
            module(x).square().sum().backward()
            seconds[name] += [time.perf_counter() - start] if number else []
    kept = {name: kept_bytes(module, x) for name, module in modules.items()}  # after the clock: it moves the heap
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    cells = [f"{1e3 * medians[name]:10.1f} ms {kept[name] / 1e6:6.1f} MB" for name in modules]
    fast, slow = modules
    ratios = f"{medians[slow] / medians[fast]:6.2f}x {kept[fast] / kept[slow]:6.2f}"
    print(f"{what:24} {reset:9} {cells[0]:>22} {cells[1]:>22} {ratios}")


def kept_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without weights."""
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        module(x)
    sizes = {storage_of(t): t.untyped_storage().nbytes() for t in saved}  # `saved` keeps all of them at their places
    own = set(map(storage_of, module.parameters()))
    return sum(size for place, size in sizes.items() if place not in own)


def _parser() -> Parser:
    parser = Parser(prog="python -m experiments.benchmarks.spiking", description=__doc__)
    spiking = [name for name, row in networks.NETWORKS.items() if row.kind == networks.SPIKING]
    parser.add_argument("--network", default="spiking-cnn", choices=spiking, help="network")
    parser.add_argument("--steps", type=within(int, 1, 1024), default=16, help="time steps")
    parser.add_argument("--batch-size", type=within(int, 1, LARGEST), default=16, help="images per mini-batch")
    parser.add_argument("--rounds", type=within(int, 1, 1000), default=5, help="times that each is timed")
    parser.add_argument("--threads", type=within(int, 1, 1024), default=1, help="CPU threads")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("experiments.benchmarks.spiking", main, None))
