"""Experiments small enough to be run within a test."""

from pathlib import Path
from typing import Any

import yaml

from experiments.grid import Grid
from experiments.schema import read_experiment

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
    "optimizer_settings": {"sgd": {"optimizer": "sgd", "momentum": 0.0, "rates": [0.05, 0.1]}},
    "tuning": {"epochs": 1, "seed": 100},
    "warm_up": {"stages": [3], "strategies": ["ema-span"], "stash_epochs": 0.5},
    "report": REPORT,
    "jobs": 1,
}
"""18 runs: 8 that tune, 10 final ones."""
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


def write_experiment(folder: Path, content: dict[str, Any], **changes: Any) -> str:
    """Write ``small.yaml`` to the folder; returns its path."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return str(path)


def small(folder: Path, content: dict[str, Any], **changes: Any) -> Grid:
    """The grid of an experiment whose file is written to the folder, with its records in ``out``."""
    return Grid.of(read_experiment(write_experiment(folder, content, **changes)), folder / "out")
