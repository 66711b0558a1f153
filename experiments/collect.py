"""Collect the run records of a folder into flat tables for figures, `dvc metrics` and `dvc plots`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.study.tables import write_tables
from layerpipe2.cli.console import run_command
from layerpipe2.runs.records import read_records


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("results"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    records = read_records(options.runs)
    write_tables(records, options.out)
    print(f"{len(records)} runs collected in {options.out}")


if __name__ == "__main__":
    sys.exit(run_command("experiments/collect.py", main, None))
