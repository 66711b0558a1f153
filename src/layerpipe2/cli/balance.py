"""``layerpipe2 balance``."""

import argparse
from dataclasses import replace

import torch

from layerpipe2 import networks
from layerpipe2.cli.commands import BalanceOptions
from layerpipe2.cli.console import span
from layerpipe2.cli.options import read_options
from layerpipe2.data import describe
from layerpipe2.delays import aligned
from layerpipe2.distributed.recomputation import check_recomputation
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.device import resolve_device
from layerpipe2.history import make_history
from layerpipe2.planning.balance import Balance, balanced
from layerpipe2.planning.profiling import profile
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.plan import check_run, make_units, optimizer_factory


def run(options: argparse.Namespace) -> None:
    """Time the network's units, print them, the best cut and the speed that it predicts.

    Raises:
        UserError: on bad settings.
    """
    wanted = read_options(BalanceOptions, options)
    config = read_options(RunConfig, options)
    spec, device = describe(config.dataset), resolve_device(config.device)
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    check_run(config.copy_with(strategy="sequential"), spec.input_shape, spec.num_classes)
    units = [unit.to(device) for unit in make_units(config, spec.input_shape, spec.num_classes)]
    shape = (config.batch_size, *spec.input_shape)
    images = networks.NETWORKS[config.network].takes == "images"
    x = torch.randn(shape, device=device) if images else torch.randint(spec.num_classes, shape, device=device)
    optimizer, history = optimizer_factory(config), make_history(config.strategy)
    if wanted.recompute_activations:
        check_recomputation(history)
    plain = profile(units, x, optimizer, repeats=wanted.repeats)
    delayed = profile(units, x, optimizer, history=history, repeats=wanted.repeats)
    best = balanced(plain, wanted.stages, delayed=delayed, recomputes=wanted.recompute_activations)
    print(
        f"{config.network} for {config.dataset}: {len(units)} units, mini-batches of {config.batch_size}, "
        f"{config.optimizer}, strategy {config.strategy}, {config.threads} thread(s), median of {wanted.repeats} "
        f"steps; the last stage has no history{' and recomputes nothing' * best.recomputes}\n"
    )
    print(f"{unit_table(best)}\n\n{stage_table(best)}\n")
    print(prediction(best))
    if any(slow.total.flops < unit.total.flops for slow, unit in zip(delayed, plain, strict=True)):
        print("history below zero is noise: let nothing else run, or raise --repeats")


def unit_table(cut: Balance) -> str:
    """One line per unit: stage, parameters, output per mini-batch, times in ms (history: what a delay adds)."""
    rows = [["unit", "stage", "parameters", "output kB", "forward ms", "backward ms", "update ms", "history ms"]]
    for i, (unit, delayed) in enumerate(zip(cut.units, cut.delayed or cut.units, strict=True)):
        stage = sum(start <= i for start in cut.starts) - 1
        added = delayed.total.flops - unit.total.flops
        times = [f"{1e3 * t:.3f}" for t in (unit.forward.flops, unit.activation.flops, unit.weight.flops, added)]
        sizes = [f"{unit.parameter_bytes // 4:,d}", f"{unit.output_bytes / 1e3:.1f}"]
        rows.append([str(i), str(stage), *sizes, *times])
    return "\n".join(aligned(rows))


def stage_table(cut: Balance) -> str:
    """One line per stage: units, time per mini-batch and its share."""
    rows, ends = [["stage", "units", "ms", "share"]], (*cut.starts[1:], len(cut.units))
    for k, (first, end, seconds) in enumerate(zip(cut.starts, ends, cut.seconds, strict=True)):
        rows.append([str(k), span(first, end), f"{1e3 * seconds:.2f}", f"{seconds / sum(cut.seconds):.1%}"])
    return "\n".join(aligned(rows))


def prediction(cut: Balance) -> str:
    """The speed of the cut, and that of equally many units per stage."""
    count = len(cut.starts)
    text = (
        f"one process {1e3 * cut.sequential:.2f} ms per mini-batch; {count} processes of one stage each: predicted "
        f"{1e3 * cut.period():.2f} ms, {cut.speedup():.2f}x"
    )
    group = -(-len(cut.units) // count)
    even = replace(cut, starts=tuple(range(0, len(cut.units), group)))
    stages = len(even.starts)
    return f"{text}\nby group size {group} ({stages} stages): predicted {even.speedup():.2f}x"
