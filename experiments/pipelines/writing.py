"""Writes what the benchmark measured, as small text files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.pipelines.network_benchmark import NetworkBenchmark
from layerpipe2.distributed.timeline import chrome_trace
from layerpipe2.provenance import provenance
from layerpipe2.runs.records import writable_folder, write_json, write_text

_SECRET = ("data_root",)  # a place on this machine


def machine() -> dict[str, Any]:
    """Where the numbers come from, and how busy the machine is before anything is measured."""
    here = provenance(torch.device("cpu")) | {"threads": 1}  # of every process, but for variants threads/N
    return here | {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]}


def write_benchmark(bench: NetworkBenchmark, folder: Path, where: dict[str, Any]) -> None:
    """Write one network's files; an earlier run's traces of it are removed.

    ``NETWORK.json`` holds everything but time stamps, ``NETWORK.csv`` a line per variant and round,
    ``NETWORK_memory.csv`` a line per strategy and stage, ``traces/NETWORK-VARIANT.json`` time stamps for
    ``chrome://tracing`` or Perfetto.

    Raises:
        UserError: if the folder can't be written.
    """
    name = bench.job.config.network
    writable_folder(folder / "traces")
    traces = {variant: f"traces/{name}-{variant.replace('/', '-')}.json" for variant in bench.traces}
    result = {
        "network": name,
        "width": bench.job.config.width,
        "options": {key: value for key, value in bench.settings if key not in _SECRET},
        "rows": bench.rows,
        "memory": bench.memory,
        "traces": traces,
        "provenance": where,
    }
    write_json(folder / f"{name}.json", result)
    rounds = [(row["variant"], i, s) for row in bench.rows for i, s in enumerate(row["seconds_per_batch"])]
    _write_csv(folder / f"{name}.csv", ("variant", "round", "seconds_per_batch"), rounds)
    if bench.memory:
        _write_csv(folder / f"{name}_memory.csv", list(bench.memory[0]), [list(row.values()) for row in bench.memory])
    for old in (folder / "traces").glob(f"{name}-*.json"):
        old.unlink()
    for variant, path in traces.items():
        write_text(folder / path, chrome_trace(bench.traces[variant]))


def _write_csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    write_text(path, text.getvalue())
