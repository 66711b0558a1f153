"""One network in the benchmark: its variants, their rounds, and what else is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.pipelines import measure
from experiments.pipelines.memory import measure_peak, measure_stages
from experiments.pipelines.predict import Predictor
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.settings import Settings
from experiments.pipelines.summary import Row, summarise
from experiments.pipelines.trainers import Job
from layerpipe2.distributed.timeline import Event
from layerpipe2.planning.variants import Variant


@dataclass
class NetworkBenchmark:
    """What was measured of one network.

    Attributes:
        job: what is trained.
        settings: of the benchmark.
        rows: a row per variant.
        memory: a row per strategy, number of processes and stage.
        traces: variant -> events of every rank.
    """

    job: Job
    settings: Settings
    rows: list[Row]
    memory: list[dict[str, Any]] = field(default_factory=list)
    traces: dict[str, list[list[Event]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, network: str, width: int | None, variants: Sequence[str], settings: Settings, strategy: str = ""
    ) -> NetworkBenchmark:
        """Profile the network's layers, cut it (for stages with the history of ``strategy``), predict all speeds."""
        processes, config = settings.processes, settings.run_config(network, width)
        stages = {Variant.parse(name).stages(processes) for name in (*variants, *settings.timelines)}
        predictor = Predictor(config, processes, settings.layer_repeats, strategy)
        job = Job(config, {k: predictor.balance(k).starts for k in sorted(stages)})
        return cls(job, settings, [_row(name, predictor) for name in variants])

    def measure(self) -> None:
        """Everything that the settings ask for."""
        self.measure_accuracies()
        for processes in self.settings.memory_processes:
            self.measure_stages(processes)
        self.measure_timelines()
        self.measure_speeds()

    def measure_speeds(self) -> None:
        """Round after round, each variant once, in turn; then the most bytes that torch had in use on every rank."""
        for _ in range(self.settings.rounds):
            for row in self.rows:
                found = self._run(measure.measure_speed, row, self.settings.batches, self.settings.warmup)
                row["seconds_per_batch"].append(max(rank["seconds"] for rank in found))
                row["peak_rss_bytes"].append([rank["peak_rss"] for rank in found])
                row["sent_bytes_per_batch"] = sum(rank["sent_bytes"] for rank in found)
        for row in self.rows:
            row["peak_torch_bytes"] = self._run(measure_peak, row, 4)
        summarise(self.rows, self.settings.batch_size)

    def measure_accuracies(self) -> None:
        """Seed after seed, the time to the target; None where it was not reached."""
        for seed in range(self.settings.seeds):
            job = Job(self.job.config.copy_with(seed=seed), self.job.starts)
            for row in (row for row in self.rows if row["variant"] in self.settings.target_variants):
                ranks = Variant.parse(row["variant"]).ranks(self.settings.processes)
                work = (job, row["variant"], self.settings.target, self.settings.epochs)
                found = run_ranks(measure.measure_accuracy, ranks, *work)[0]
                row["seconds_to_target"].append(found["seconds"] if found["reached"] else None)
                row["epochs_to_target"].append(len(found["accuracies"]) if found["reached"] else None)

    def measure_stages(self, processes: int) -> None:
        """Bytes per stage on so many processes, measured and modelled."""
        predictor = Predictor(self.job.config, processes, self.settings.layer_repeats)
        job = Job(self.job.config, {processes: predictor.balance(processes).starts})
        for variant in self.settings.memory_variants:
            found = run_ranks(measure_stages, processes, job, variant)[0]
            self.memory += [{"variant": variant, "processes": processes} | row for row in found]

    def measure_timelines(self) -> None:
        """Time stamps of some variants."""
        for variant in self.settings.timelines:
            ranks = Variant.parse(variant).ranks(self.settings.processes)
            work = (self.job, variant, self.settings.trace_batches)
            self.traces[variant] = run_ranks(measure.measure_timeline, ranks, *work)

    def _run(self, work: Any, row: Row, *arguments: Any) -> list[Any]:
        ranks = Variant.parse(row["variant"]).ranks(self.settings.processes)
        return run_ranks(work, ranks, self.job, row["variant"], *arguments)


def _row(variant: str, predictor: Predictor) -> Row:
    lists = ("seconds_per_batch", "peak_rss_bytes", "seconds_to_target", "epochs_to_target")
    found: Row = {"variant": variant, "predicted_speed_up": predictor.speedup(variant)}
    return found | {"starts": list(predictor.cut(variant).starts)} | {name: [] for name in lists}
