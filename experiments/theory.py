"""Compute the tables of the theory once: proofs of the derivations, stability, costs of partitions, schedules.

Nothing here needs a training run. Writes proofs, stability, partitions, schedules and devices.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from experiments.study import costs, theory
from experiments.study.tables import Row, write_csv
from layerpipe2.cli.console import run_command
from layerpipe2.runs.records import writable_folder

TABLES: dict[str, Callable[[], list[Row]]] = {
    "devices": costs.layerpipe_over_devices,  # the slowest first
    "stability": theory.stability,
    "schedules": costs.schedules,
    "partitions": costs.partitions,
    "proofs": theory.proofs,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the tables in two processes, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/theory"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    writable_folder(options.out)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name, rows in zip(TABLES, pool.map(_computed, TABLES), strict=True):
            write_csv(options.out / f"{name}.csv", list(rows[0]), rows)
            print(f"{name}: {len(rows)} rows")


def _computed(name: str) -> list[Row]:
    return TABLES[name]()


if __name__ == "__main__":
    sys.exit(run_command("experiments/theory.py", main, None))
