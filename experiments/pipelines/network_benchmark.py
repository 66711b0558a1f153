"""One network in the benchmark: its variants, their rounds, what else is measured of them, and the files of it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.pipelines import measure
from experiments.pipelines.processes import in_random_order, run_ranks
from experiments.pipelines.profiles import predictor
from experiments.pipelines.settings import BenchmarkSettings
from experiments.pipelines.summary import Row, summarise
from experiments.pipelines.trainers import Job
from experiments.tables import write_csv
from layerpipe2.lab.runs.records import writable_folder, write_json, write_text
from layerpipe2.pipeline.timeline import Span, chrome_trace
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.predict import Predictor
from layerpipe2.planning.variants import Variant

_SECRET = ("data_root",)  # a place on this machine


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
