"""``layerpipe2 balance``: where is a network cut, and which training of it is fastest here?"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from layerpipe2.cli.console import span
from layerpipe2.cli.own import own_pipeline
from layerpipe2.delays import aligned
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.device import resolve_device
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.pipeline.recomputation import check_recomputation
from layerpipe2.planning import Link
from layerpipe2.planning.balance import Balance
from layerpipe2.planning.choices import Choice, choices, optimizer_copies
from layerpipe2.planning.machine import Machine, side_by_side
from layerpipe2.planning.predict import Predictor, profiled
from layerpipe2.planning.profiling import MakeOptimizer
from layerpipe2.planning.variants import Variant
from layerpipe2.strategies import make_strategy

_STRATEGIES = ("stash", "latest", "ema-window")
_BUSY = 1.0  # load average
_CLOSE = 1.05
"""Predictions nearer to each other than this ratio don't tell which is faster."""


class Training(NamedTuple):
    """What is balanced: a network and how it is trained.

    Attributes:
        name, optimizer: for readers.
        units: input side first, on the device.
        x: a mini-batch of inputs (B, ...).
        make_optimizer: parameters -> optimizer.
        strategy: name of the weight history.
    """

    name: str
    optimizer: str
    units: Sequence[nn.Module]
    x: Tensor
    make_optimizer: MakeOptimizer
    strategy: str


def run(options: argparse.Namespace) -> None:
    """Balance a training of one's own.

    Raises:
        UserError: if it has no mini-batch.
    """
    keep_freed_memory()
    balance_pipeline(options, *own_pipeline(options.module))


def balance_pipeline(options: argparse.Namespace, module: PipelinedModule, loader: Iterable[Any]) -> None:
    """Balance the stages of a module, unit by unit, for its first mini-batch.

    Raises:
        UserError: if there is no mini-batch.
    """
    device = resolve_device("auto")
    units = units_of(module.stages)
    x = module.batch_format.inputs_of(next(iter(loader), None))
    optimizer = type(module.make_optimizer(list(module.parameters()))).__name__
    strategy = module.strategy.name or "stash"
    units, x = [unit.to(device) for unit in units], x.to(device)
    balance(options, Training(options.module, optimizer, units, x, module.make_optimizer, strategy))


def units_of(stages: Iterable[nn.Module]) -> list[nn.Module]:
    """Return what the stages call one after the other."""
    return [unit for stage in stages for unit in (stage if isinstance(stage, nn.Sequential) else [stage])]


def balance(options: argparse.Namespace, training: Training) -> None:
    """Time the units, print them, the best cut, and what else could be done with as many processes.

    Raises:
        UserError: on settings that don't fit.
    """
    load, size = os.getloadavg()[0], len(training.x)
    if options.recompute_activations:
        check_recomputation(make_strategy(training.strategy))
    times = profiled(training.units, training.x, training.make_optimizer, options.repeats)
    predictor = Predictor(times, size, options.stages, strategy=None, threads=options.threads)
    best = predictor.cut(f"async/{training.strategy}{'/recompute' * options.recompute_activations}")
    print(
        f"{training.name}: {len(training.units)} units, mini-batches of {size}, {training.optimizer}, strategy "
        f"{training.strategy}, {options.threads} thread(s), median of {options.repeats} steps; the last stage has no "
        f"history{' and recomputes nothing' * best.recomputes}\n"
    )
    print(f"{unit_table(best)}\n\n{stage_table(best)}\n")
    print(prediction(best))
    if any(slow.total.flops < unit.total.flops for slow, unit in zip(best.delayed, best.units, strict=True)):
        print("history below zero is noise: let nothing else run, or raise --repeats")
    if options.stages > 1 and training.x.device.type == "cpu":
        print(f"\n{_comparison(predictor, training, options)}")
    if load > _BUSY:
        print(f"other work ran here before (load average {load:.1f}): do not trust these times")


def _comparison(predictor: Predictor, training: Training, options: argparse.Namespace) -> str:
    """Return text on the machine, all choices and the fastest one."""
    cores = len(os.sched_getaffinity(0))
    at_once = min(options.stages, cores)  # more would wait for each other
    with side_by_side(max(at_once, 2)) as start:
        machine = Machine.measured(at_once, start)
    place, here = "on this machine", options.gigabits is None
    if options.gigabits is not None:
        latency = machine.link.latency if options.latency is None else options.latency / 1e3
        machine = replace(machine, together=machine.alone).with_link(Link(options.gigabits * 1e9 / 8, latency))
        place = "on a machine each, as fast as this one"
    elif (needed := options.stages * options.threads) > cores:
        # One process with all threads can't be timed here.
        place, here = f"on a machine as fast as this one, with {needed} cores (this one has {cores})", False
    strategies = dict.fromkeys(name for name in (training.strategy, *_STRATEGIES) if name != "sequential")
    if options.recompute_activations:
        strategies = {f"{training.strategy}/recompute": None} | strategies
    copies = optimizer_copies(training.make_optimizer)
    found = choices(predictor, machine, strategies, one_host=here, optimizer_copies=copies)
    where = f"{options.stages} processes of {options.threads} thread(s) {place}"
    return f"{where}; {machine_line(machine)}\n\n{choice_table(found)}\n\n{sentence(found)}"


def machine_line(machine: Machine) -> str:
    """Say what was measured beside the units."""
    copied = f"memory {machine.alone / 1e9:.1f} GB/s for one process"
    if machine.together < machine.alone:
        copied += f", {machine.together / 1e9:.1f} GB/s for each of all"
    return f"{copied}; link {machine.link.bandwidth / 1e9:.3g} GB/s, {1e3 * machine.link.latency:.2g} ms"


def choice_table(found: Sequence[Choice]) -> str:
    """Return a table with a line per choice."""
    rows = [["choice", "ms", "speed", "MB"]]
    for one in found:
        speed = f"{found[0].seconds / one.seconds:.2f}x"
        rows.append([one.label, f"{1e3 * one.seconds:.2f}", speed, f"{one.held_bytes / 1e6:.1f}"])
    return "\n".join(aligned(rows, left=1))


def sentence(found: Sequence[Choice]) -> str:
    """Say which choice is the fastest, by how much, and under which conditions."""
    best, *rest = sorted(found, key=lambda one: one.seconds)
    second = next(one for one in rest if not (_is_late(best) and _is_late(one)))  # not another history
    ratio = second.seconds / best.seconds
    text = (
        f"Fastest, if nothing else runs: {best.label}, {1e3 * best.seconds:.2f} ms per mini-batch, "
        f"{found[0].seconds / best.seconds:.2f}x one process and {ratio:.2f}x the next ({second.label})"
    )
    text += "; so close that only a measurement tells." if ratio < _CLOSE else "."
    if _is_late(best) or _is_late(second):
        text += (
            " LayerPipe2's gradients are late, so that training often takes more mini-batches to the same loss: "
            "`layerpipe2 advise` shows how it begins with them, with each history and with none."
        )
    return text


def _is_late(choice: Choice) -> bool:
    return Variant.parse(choice.variant).kind == "async"


def unit_table(cut: Balance) -> str:
    """Return a line per unit: stage, parameters, output per mini-batch, times in ms (history: what a delay adds)."""
    rows = [["unit", "stage", "parameters", "output kB", "forward ms", "backward ms", "update ms", "history ms"]]
    for i, (unit, delayed) in enumerate(zip(cut.units, cut.delayed or cut.units, strict=True)):
        stage = sum(start <= i for start in cut.starts) - 1
        added = delayed.total.flops - unit.total.flops
        times = [f"{1e3 * t:.3f}" for t in (unit.forward.flops, unit.activation.flops, unit.weight.flops, added)]
        sizes = [f"{unit.parameter_bytes // 4:,d}", f"{unit.output_bytes / 1e3:.1f}"]
        rows.append([str(i), str(stage), *sizes, *times])
    return "\n".join(aligned(rows))


def stage_table(cut: Balance) -> str:
    """Return a line per stage: units, time per mini-batch and its share."""
    rows, ends = [["stage", "units", "ms", "share"]], (*cut.starts[1:], len(cut.units))
    for k, (first, end, seconds) in enumerate(zip(cut.starts, ends, cut.seconds, strict=True)):
        rows.append([str(k), span(first, end), f"{1e3 * seconds:.2f}", f"{seconds / sum(cut.seconds):.1%}"])
    return "\n".join(aligned(rows))


def prediction(cut: Balance) -> str:
    """Say how fast the cut is, and one of equally many units per stage."""
    count = len(cut.starts)
    text = (
        f"one process {1e3 * cut.sequential:.2f} ms per mini-batch; {count} processes of one stage each: predicted "
        f"{1e3 * cut.period():.2f} ms, {cut.speedup():.2f}x"
    )
    group = -(-len(cut.units) // count)
    even = replace(cut, starts=tuple(range(0, len(cut.units), group)))
    stages = len(even.starts)
    return f"{text}\nby group size {group} ({stages} stages): predicted {even.speedup():.2f}x"
