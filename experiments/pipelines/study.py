"""One network in the benchmark: its variants, their rounds, and what else is measured of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.pipelines import measure
from experiments.pipelines.held import measure_held
from experiments.pipelines.predict import Predictor
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.summary import Row
from experiments.pipelines.traces import measure_timeline
from experiments.pipelines.variants import Job
from layerpipe2.distributed.timeline import Event
from layerpipe2.errors import UserError
from layerpipe2.planning.variants import Variant
from layerpipe2.runs.config import RunConfig


@dataclass
class Study:
    """What was measured of one network.

    Attributes:
        job: what is trained.
        options: of the command line.
        rows: a row per variant.
        memory: a row per strategy, number of processes and stage.
        traces: variant -> events of every rank.
    """

    job: Job
    options: argparse.Namespace
    rows: list[Row]
    memory: list[dict[str, Any]] = field(default_factory=list)
    traces: dict[str, list[list[Event]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, network: str, width: int | None, variants: Sequence[str], options: argparse.Namespace, strategy: str = ""
    ) -> Study:
        """Profile the network's layers, cut it (for stages with the history of ``strategy``), predict all speeds.

        Raises:
            UserError: on an unknown variant, or without ``plain``.
        """
        processes = options.processes
        stages = {Variant.parse(name).stages(processes) for name in (*variants, *options.timelines)}
        if "plain" not in variants:
            raise UserError("variant 'plain' is missing; the others are measured against it")
        config = RunConfig(
            dataset=options.dataset, data_root=options.data_root, network=network, width=width,
            batch_size=options.batch_size, lr=options.lr, schedule="constant",
        )  # fmt: skip
        predictor = Predictor(config, processes, options.layer_repeats, strategy)
        job = Job(config, {k: predictor.balance(k).starts for k in sorted(stages)})
        return cls(job, options, [_row(name, predictor) for name in variants])

    def measure_speeds(self) -> None:
        """Round after round, each variant once, in turn."""
        for _ in range(self.options.rounds):
            for row in self.rows:
                found = self._run(measure.measure_speed, row, self.options.batches, self.options.warmup)
                row["seconds_per_batch"].append(max(rank["seconds"] for rank in found))
                row["peak_rss_bytes"].append([rank["peak_rss"] for rank in found])
                row["sent_bytes_per_batch"] = sum(rank["sent_bytes"] for rank in found)

    def measure_peaks(self) -> None:
        """Most bytes that torch held on every rank, of each variant."""
        for row in self.rows:
            row["peak_torch_bytes"] = self._run(measure.measure_memory, row, 4)

    def measure_accuracies(self, variants: Sequence[str]) -> None:
        """Seed after seed, the time to the target; None where it was not reached."""
        for seed in range(self.options.seeds):
            job = Job(RunConfig.from_dict(self.job.config.to_dict() | {"seed": seed}), self.job.starts)
            for row in (row for row in self.rows if row["variant"] in variants):
                ranks = Variant.parse(row["variant"]).ranks(self.options.processes)
                work = (job, row["variant"], self.options.target, self.options.epochs)
                found = run_ranks(measure.measure_accuracy, ranks, *work)[0]
                row["seconds_to_target"].append(found["seconds"] if found["reached"] else None)
                row["epochs_to_target"].append(len(found["accuracies"]) if found["reached"] else None)

    def measure_stages(self, variants: Sequence[str], processes: int) -> None:
        """Bytes per stage on so many processes, measured and modelled."""
        predictor = Predictor(self.job.config, processes, self.options.layer_repeats)
        job = Job(self.job.config, {processes: predictor.balance(processes).starts})
        for variant in variants:
            found = run_ranks(measure_held, processes, job, variant)[0]
            self.memory += [{"variant": variant, "processes": processes} | row for row in found]

    def measure_timelines(self, variants: Sequence[str]) -> None:
        """Time stamps of some variants."""
        for variant in variants:
            ranks = Variant.parse(variant).ranks(self.options.processes)
            self.traces[variant] = run_ranks(measure_timeline, ranks, self.job, variant, self.options.trace_batches)

    def _run(self, work: Any, row: Row, *arguments: Any) -> list[Any]:
        ranks = Variant.parse(row["variant"]).ranks(self.options.processes)
        return run_ranks(work, ranks, self.job, row["variant"], *arguments)


def _row(variant: str, predictor: Predictor) -> Row:
    lists = ("seconds_per_batch", "peak_rss_bytes", "seconds_to_target", "epochs_to_target")
    found: Row = {"variant": variant, "predicted_speed_up": predictor.speedup(variant)}
    return found | {"starts": list(predictor.cut(variant).starts)} | {name: [] for name in lists}
