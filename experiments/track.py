"""Copy the run records to MLflow for browsing (`make ui`). Each record is copied once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.study.tracking import experiments, track
from layerpipe2.cli.console import run_command
from layerpipe2.runs.records import read_records, write_json

_TABLE = "http://127.0.0.1:{port}/#/experiments/{identity}?workflowType=machine_learning"
"""An experiment's table of runs. Without the query MLflow may show it as one of generative AI, with empty traces."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the records, copy the new ones, say where to look at them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="default: %(default)s")
    parser.add_argument("--database", type=Path, default=Path("mlflow.db"), help="default: %(default)s")
    parser.add_argument("--artifacts", type=Path, default=Path("mlartifacts"), help="default: %(default)s")
    parser.add_argument("--summary", type=Path, help="JSON file that counts the records, for DVC")
    parser.add_argument("--port", type=int, help="print links for a server that will listen there on 127.0.0.1")
    options = parser.parse_args(arguments)
    records = read_records(options.runs)
    new = track(records, options.database, options.artifacts)
    if options.summary:
        write_json(options.summary, {"records": len(records)})
    print(f"{new} of {len(records)} runs were new to {options.database}")
    if options.port is not None:
        for name, identity in experiments(records, options.database).items():
            print(f"{name}: {_TABLE.format(port=options.port, identity=identity)}")


if __name__ == "__main__":
    sys.exit(run_command("experiments/track.py", main, None))
