"""What MLflow is given of a run and of its cell: plain values, so that another process can write them."""

import hashlib
import json
from typing import Any, NamedTuple

NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
KEY, FINGERPRINT, CELL = (f"layerpipe2.{name}" for name in ("key", "record", "cell"))
"""Tags: what a rerun has in common with the run that it replaces; the content that was copied; all settings but the
seed."""
FINAL, TUNE, TRAIN = "final", "tune", "train"
"""Phases of runs: those of an experiment's results, those that choose its learning rates, single ones."""
CELLS, SEEDS, STUDIES, TRIALS, SUMMARY = "cell", "seed", "study", "trial", "summary"
"""Kinds of entries: the tag ``kind``. A cell has one run per seed below it, a study one trial per setting."""


class Page(NamedTuple):
    """The page of one run in MLflow."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]


class Entry(NamedTuple):
    """A run, the cell above it, and what MLflow says of the data set: ``name``, ``digest``, ``profile``."""

    run: Page
    cell: Page
    dataset: dict[str, str]


def digest(value: Any) -> str:
    """Of plain values: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
