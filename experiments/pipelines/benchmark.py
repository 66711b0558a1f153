"""Pipelines on real processes, as ratios to plain training in one process: speed, time to a target accuracy, memory.

Every round runs each variant once, in turn, in fresh processes of one thread each (``threads/2``: of two); all train
the same network on the same batches. Networks are cut where their measured layer times balance best. One run also
measures what the stages hold beside what the cost model says, takes time stamps of some variants, and compares, on
another network, balanced stages with groups of as many layers. Run it on an idle machine. Examples:

  python -m experiments.pipelines.benchmark --out results/pipelines
  python -m experiments.pipelines.benchmark --network resnet18 --variants plain 1f1b/4 async/stash
  python -m experiments.pipelines.benchmark --quick
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.pipelines.study import Study
from experiments.pipelines.summary import memory_table, summarise, table
from experiments.pipelines.writing import machine, write_study
from layerpipe2.cli.console import run_command
from layerpipe2.planning.variants import Variant

ONE_PROCESS = ("plain", "plain/4", "threads/2")
SYNCHRONOUS = tuple(f"{name}/{m}" for name in ("gpipe", "1f1b", "interleaved", "zero-bubble", "zero-bubble-v")
                    for m in (2, 4))  # fmt: skip
ASYNCHRONOUS = ("async/stash", "async/latest", "async/ema-window")
OTHERS = ("async/ema-window/pipedream", "async/ema-window/split", "exact", "exact/split")

# What differs from the defaults in a run that only shows that everything works.
QUICK: dict[str, Any] = {
    "width": 4,
    "rounds": 2,
    "batches": 3,
    "warmup": 1,
    "layer_repeats": 1,
    "seeds": 1,
    "epochs": 1,
    "variants": ["plain", "threads/2", "1f1b/2", "gpipe/2", "async/stash", "exact", "exact/split"],
    "target_variants": ["plain", "async/stash"],
    "memory_processes": [2],
    "memory_strategies": ["stash", "ema-window"],
    "timelines": ["async/stash", "1f1b/2", "gpipe/2"],
    "trace_batches": 9,
    "cut_network": "mlp",
    "cut_width": 8,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return run_command("benchmark", _run, arguments)


def _run(arguments: Sequence[str] | None) -> None:
    options = _options(arguments)
    where = machine()
    studies = [_main_study(options)]
    if options.cut_network:
        pipeline = options.cut_variant
        variants = ("plain", pipeline, f"{pipeline}/groups")
        strategy = Variant.parse(pipeline).strategy
        studies.append(_speeds(Study.of(options.cut_network, options.cut_width, variants, options, strategy)))
    for study in studies:
        print(table(study.rows, study.job.config.network, options))
        if study.memory:
            print("\n" + memory_table(study.memory))
        print()
        if options.out:
            write_study(study, options.out, where)


def _main_study(options: argparse.Namespace) -> Study:
    strategies = [f"async/{strategy}" for strategy in options.memory_strategies]
    for name in (*strategies, options.cut_variant):  # a mistake is found before minutes have passed
        Variant.parse(name)
    study = Study.of(options.network, options.width, options.variants, options)
    study.measure_accuracies(options.target_variants)
    for processes in options.memory_processes:
        study.measure_stages(strategies, processes)
    study.measure_timelines(options.timelines)
    return _speeds(study)


def _speeds(study: Study) -> Study:
    study.measure_speeds()
    study.measure_peaks()
    summarise(study.rows, study.options.batch_size)
    return study


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--network", default="even", help="'even' (eight equal convolutions) or a network of layerpipe2")
    add("--width", type=int, default=None, help="base width; default: the network's own, 64 for 'even'")
    add("--dataset", default="digits", help="data set")
    add("--data-root", default=None, help="folder searched first for the data set")
    add("--batch-size", type=int, default=64, help="images per mini-batch")
    add("--lr", type=float, default=0.01, help="learning rate of SGD with momentum 0.9")
    add("--processes", type=int, default=2, help="processes of a pipeline")
    add("--variants", **_names(*ONE_PROCESS, *SYNCHRONOUS, *ASYNCHRONOUS, *OTHERS), help="what to compare")
    add("--rounds", type=int, default=5, help="times that each variant's speed is measured")
    add("--batches", type=int, default=40, help="timed mini-batches per round, filling and draining included")
    add("--warmup", type=int, default=5, help="mini-batches before them")
    add("--layer-repeats", type=int, default=25, help="timed steps of the layer profile")
    _add_parts(parser)
    add("--quick", action="store_true", help="seconds instead of minutes: shows that it works, measures nothing")
    add("--out", type=Path, default=None, help="folder for the files of every network")
    return parser


def _add_parts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="runs to the target accuracy; 0: none")
    add("--target", type=float, default=0.95, help="validation accuracy to reach")
    add("--epochs", type=int, default=15, help="most epochs to reach it")
    add("--target-variants", **_names("plain", "gpipe/4", "1f1b/4", *ASYNCHRONOUS), help="those of --variants to do so")
    add("--memory-strategies", **_names("stash", "latest", "ema-window"), help="strategies whose bytes are measured")
    add("--memory-processes", type=int, nargs="*", default=[2, 4], help="on so many processes; none: not at all")
    traced = ("async/ema-window", "1f1b/4", "gpipe/4", "exact", "exact/split")
    add("--timelines", **_names(*traced), help="variants to take time stamps of")
    add("--trace-batches", type=int, default=18, help="mini-batches of a timeline")
    add("--cut-network", default="vgg16", help="network on which to compare cuts by time and by group size; '': none")
    add("--cut-width", type=int, default=64, help="its base width")
    add("--cut-variant", default="async/ema-window", help="the pipeline that is cut")


def _names(*default: str) -> dict[str, Any]:
    return {"nargs": "*", "default": list(default), "metavar": "NAME"}


if __name__ == "__main__":
    raise SystemExit(main())
