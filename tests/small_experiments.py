"""Experiments small enough to be run within a test."""

import csv
from pathlib import Path
from typing import Any

import yaml

from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import read_experiment

ROOT = Path(__file__).parents[1]
REPORT = {"equivalence_margin_points": 5, "significance_level": 0.05}
TUNED: dict[str, Any] = {
    "networks": ["mlp"],
    "datasets": ["digits"],
    "stages": [3],
    "strategies": ["stash", "latest", "ema-span"],
    "optimizers": ["sgd"],
    "seeds": [0, 1],
    "settings": {"width": 8, "epochs": 1, "batch_size": 128},
    "optimizer_settings": {"sgd": {"optimizer": "sgd", "momentum": 0.0}},
    "tuning": {"epochs": 1, "seeds": [100], "space": {"lr": "log:0.02:0.2"}, "trials": 3},
    "report": REPORT,
    "jobs": 1,
}
"""8 runs, with learning rates from 4 studies."""
UNTUNED: dict[str, Any] = {
    "networks": ["mlp"],
    "datasets": ["digits"],
    "group_sizes": [1, 3],
    "strategies": ["stash", "latest"],
    "optimizers": ["sgd"],
    "seeds": [0, 1],
    "settings": {"width": 8, "epochs": 1, "batch_size": 128},
    "optimizer_settings": {"sgd": {"lr": 0.1}},
    "report": REPORT,
    "jobs": 2,
    "cell": "{network}-{group}/{strategy}",
}
"""10 runs."""
FEW = UNTUNED | {"group_sizes": [3]}
"""6 runs."""


def write_experiment(folder: Path, content: dict[str, Any], **changes: Any) -> str:
    """Write ``small.yaml`` to the folder; returns its path."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return str(path)


def small(folder: Path, content: dict[str, Any], **changes: Any) -> Grid:
    """The grid of an experiment whose file is written to the folder, with its records in ``out``."""
    return Grid.of(read_experiment(write_experiment(folder, content, **changes)), folder / "out")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))
