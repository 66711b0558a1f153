"""Train one item of the study in params.yaml: a network and a group size, every strategy, every seed.

Writes one record per run to results/runs/<network>-<group>/<strategy>-s<seed>.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.study.params import Study
from experiments.study.pool import train_all
from layerpipe2.cli.console import run_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, build the runs, train them, write their records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a network that params.yaml lists under study.networks")
    parser.add_argument("group", help="layers per stage, or 'sequential': the baseline without a pipeline")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("results/runs"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    study = Study.from_file(options.params)
    group = int(options.group) if options.group.isdigit() else options.group
    item = f"{options.network}-{group}"
    train_all(study.runs(options.network, group), options.out / item, jobs=study.jobs, label=item)


if __name__ == "__main__":
    sys.exit(run_command("experiments/train.py", main, None))
