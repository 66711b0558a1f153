"""Pipelines on real processes, as ratios to plain training in one process: speed, memory, time lines.

Every round runs each variant once, in random order, in fresh processes of one thread each (``threads/2``: of two); all
train the same network on the same batches. Networks are cut where the measured times of their units balance. One run
also measures what the stages hold beside what the cost model says, takes time stamps of some variants, and compares, on
another network, balanced stages with groups of as many units. Run it on an idle machine. Examples:

  python -m experiments.pipelines.benchmark --out results/pipelines
  python -m experiments.pipelines.benchmark --network resnet18 --variants plain 1f1b/4 async/stash
  python -m experiments.pipelines.benchmark --quick
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.pipelines.network_benchmark import NetworkBenchmark
from experiments.pipelines.processes import run_ranks, whereabouts
from experiments.pipelines.settings import PLAIN, QUICK, BenchmarkSettings, parse
from experiments.pipelines.summary import memory_table, table
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.variants import Variant


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark.

    Raises:
        UserError: on a mistake in an option, or if the folder can't be written.
    """
    parser = Parser(prog="python -m experiments.pipelines.benchmark", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the files of every network")
    settings, options = parse(parser, BenchmarkSettings, arguments, QUICK)
    where = whereabouts() | {"threads": 1}  # of every process, but for variants threads/N
    machine = Machine.measured(settings.processes, run_ranks)
    where |= {"machine": asdict(machine)}
    bench = NetworkBenchmark.of(settings.network, settings.width, settings.variants, settings, machine)
    bench.measure()
    _show(bench, options.out, where)
    if settings.cut_network:
        pipeline = settings.cut_variant
        variants, strategy = (PLAIN, pipeline, f"{pipeline}/groups"), Variant.parse(pipeline).strategy
        bench = NetworkBenchmark.of(settings.cut_network, settings.cut_width, variants, settings, machine, strategy)
        bench.measure_speeds()
        _show(bench, options.out, where)


def _show(bench: NetworkBenchmark, out: Path | None, where: dict[str, object]) -> None:
    print(table(bench.rows, bench.job.config.network, bench.settings))
    if bench.memory:
        print("\n" + memory_table(bench.memory))
    print()
    if out:
        bench.write(out, where)


if __name__ == "__main__":
    sys.exit(run_command("benchmark", main, None))
