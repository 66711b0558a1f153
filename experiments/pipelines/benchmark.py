"""Pipelines on real processes, as ratios to plain training in one process: speed, memory, time lines.

Every round runs each variant once, in random order, in fresh processes of one thread each (``threads/2``: of two); all
train the same network on the same batches. Networks are cut where the measured times of their units balance. One run
also measures what the stages hold beside what the cost model says, takes time stamps of some variants, and compares, on
another network, balanced stages with groups of as many units. Run it on an idle machine. Examples:

  python -m experiments.pipelines.benchmark --out results/pipelines
  python -m experiments.pipelines.benchmark --network resnet18 --variants plain 1f1b/4 async/stash
  python -m experiments.pipelines.benchmark --quick
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.pipelines import measure
from experiments.pipelines.measure import predictor
from experiments.pipelines.processes import in_random_order, run_ranks, whereabouts
from experiments.pipelines.settings import PLAIN, QUICK, BenchmarkSettings, parse
from experiments.pipelines.trainers import Job
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.delays import aligned
from layerpipe2.lab.runs.records import Row, writable_folder, write_csv, write_json, write_text
from layerpipe2.pipeline.timeline import Span, chrome_trace
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.predict import Predictor
from layerpipe2.planning.variants import Variant

_SECRET = ("data_root",)  # a place on this machine
_HEAD = ("variant", "samples/s", "speed-up", "(min-max)", "predicted", "torch MB by rank", "RSS MB by rank", "sent kB")


def summarise(rows: Sequence[Row], batch_size: int) -> None:
    """Add to every row samples per second, and its speed over every variant as [median, smallest, largest] ratio.

    A ratio is that of two times of one round.
    """
    for row in rows:
        row["samples_per_second"] = batch_size / statistics.median(row["seconds_per_batch"])
        times = row["seconds_per_batch"]
        row["speed_over"] = {other["variant"]: _ratio(other["seconds_per_batch"], times) for other in rows}


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def table(rows: Sequence[Row], network: str, settings: BenchmarkSettings) -> str:
    """The figures as text: medians, and ratios to plain training with their smallest and largest value."""
    lines = [
        f"{network} on {settings.dataset}, mini-batches of {settings.batch_size}; {settings.processes} processes "
        f"of one thread; n = {settings.rounds} rounds of {settings.batches} mini-batches",
        *aligned([_HEAD, *map(_cells, rows)]),
    ]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    speed, low, high = row["speed_over"]["plain"]
    rss = [statistics.median(values) for values in zip(*row["peak_rss_bytes"], strict=True)]
    predicted = row["predicted_speed_up"]
    return [
        *(row["variant"], f"{row['samples_per_second']:.1f}", f"{speed:.2f}x", f"({low:.2f}-{high:.2f})"),
        *("" if predicted is None else f"{predicted:.2f}x", _megabytes(row["peak_torch_bytes"]), _megabytes(rss)),
        f"{row['sent_bytes_per_batch'] / 1e3:.1f}",
    ]


def _megabytes(values: Sequence[float]) -> str:
    return " + ".join(f"{value / 1e6:.1f}" for value in values)


@dataclass
class NetworkBenchmark:
    """The measurements of one network.

    Attributes:
        job: what is trained.
        settings: of the benchmark.
        rows: a row per variant.
        memory: a row per strategy, number of processes and stage.
        traces: variant -> events of every rank.
    """

    job: Job
    settings: BenchmarkSettings
    rows: list[Row]
    memory: list[dict[str, Any]] = field(default_factory=list)
    traces: dict[str, list[list[Span]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        network: str,
        width: int | None,
        variants: Sequence[str],
        settings: BenchmarkSettings,
        machine: Machine,
        strategy: str = "",
    ) -> NetworkBenchmark:
        """Time the network's units, cut it (for stages with the history of ``strategy``), predict all speeds."""
        processes, config = settings.processes, settings.run_config(network, width)
        stages = {Variant.parse(name).stages(processes) for name in (*variants, *settings.timelines)}
        predicts = predictor(config, processes, settings.layer_repeats, strategy)
        job = Job(config, {k: predicts.balance(k).starts for k in sorted(stages)})
        return cls(job, settings, [_row(name, predicts, machine) for name in variants])

    def measure(self) -> None:
        """Everything that the settings ask for."""
        settings = self.settings
        for processes in settings.memory_processes:
            self._measure_stages(processes)
        for variant in settings.timelines:
            self.traces[variant] = self._run(measure.measure_timeline, variant, settings.trace_batches)
        self.measure_speeds()

    def measure_speeds(self) -> None:
        """Round after round, each variant once, in random order; then the bytes that torch held on every rank."""
        for _, row in in_random_order(self.rows, self.settings.rounds):
            work = (self.settings.batches, self.settings.warmup)
            found = self._run(measure.measure_speed, row["variant"], *work)
            row["seconds_per_batch"].append(max(rank["seconds"] for rank in found))
            row["peak_rss_bytes"].append([rank["peak_rss"] for rank in found])
            row["sent_bytes_per_batch"] = sum(rank["sent_bytes"] for rank in found)
        for row in self.rows:
            row["held_bytes"] = self._run(measure.measure_peak, row["variant"], 4)
            row["peak_torch_bytes"] = [rank["peak"] for rank in row["held_bytes"]]
        summarise(self.rows, self.settings.batch_size)

    def _measure_stages(self, processes: int) -> None:
        """Bytes per stage on so many processes, measured and modelled."""
        cut = predictor(self.job.config, processes, self.settings.layer_repeats).balance(processes)
        job = Job(self.job.config, {processes: cut.starts})
        for variant in self.settings.memory_variants:
            found = run_ranks(measure.measure_stages, processes, job, variant)[0]
            self.memory += [{"variant": variant, "processes": processes} | row for row in found]

    def _run(self, work: Callable[..., Any], variant: str, *arguments: Any) -> list[Any]:
        ranks = Variant.parse(variant).ranks(self.settings.processes)
        return run_ranks(work, ranks, self.job, variant, *arguments)

    def write(self, folder: Path, where: dict[str, Any]) -> None:
        """Write the network's files, with ``where`` it was measured; an earlier run's traces of it are removed.

        ``NETWORK.json`` holds everything but time stamps, ``NETWORK.csv`` a line per variant and round,
        ``NETWORK_memory.csv`` a line per strategy and stage, ``traces/NETWORK-VARIANT.json`` time stamps for
        ``chrome://tracing`` or Perfetto.

        Raises:
            UserError: if the folder can't be written.
        """
        name = self.job.config.network
        writable_folder(folder / "traces")
        traces = {variant: f"traces/{name}-{variant.replace('/', '-')}.json" for variant in self.traces}
        result = {
            "network": name,
            "width": self.job.config.width,
            "options": {key: value for key, value in self.settings if key not in _SECRET},
            "rows": self.rows,
            "memory": self.memory,
            "traces": traces,
            "provenance": where,
        }
        write_json(folder / f"{name}.json", result)
        columns = ("variant", "round", "seconds_per_batch")
        rounds = [(row["variant"], i, s) for row in self.rows for i, s in enumerate(row["seconds_per_batch"])]
        write_csv(folder / f"{name}.csv", columns, [dict(zip(columns, line, strict=True)) for line in rounds])
        if self.memory:
            write_csv(folder / f"{name}_memory.csv", self.memory[0], self.memory)
        for old in (folder / "traces").glob(f"{name}-*.json"):
            old.unlink()
        for variant, path in traces.items():
            write_text(folder / path, chrome_trace(self.traces[variant]))


def _row(variant: str, predicts: Predictor, machine: Machine) -> Row:
    lists = ("seconds_per_batch", "peak_rss_bytes")
    found: Row = {"variant": variant, "predicted_speed_up": predicts.speedup(variant, machine)}
    return found | {"starts": list(predicts.cut(variant).starts)} | {name: [] for name in lists}


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
    print(table(bench.rows, bench.job.config.network, bench.settings), end="\n\n")
    if out:
        bench.write(out, where)


if __name__ == "__main__":
    sys.exit(run_command("benchmark", main, None))
