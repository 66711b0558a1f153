"""One run of an experiment, and what it has in common with others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from layerpipe2.lab.data import describe
from layerpipe2.lab.networks import build
from layerpipe2.lab.runs.config import RunConfig


class Cell(NamedTuple):
    """What has a learning rate of its own; ``group`` is a group size, or 'sequential' for the baseline."""

    network: str
    dataset: str
    optimizer: str
    group: int | str
    stages: int
    strategy: str


@dataclass(frozen=True)
class Task:
    """One run; ``path`` leads from the folder of the experiment's records to its own.

    In a tuned experiment the settings of ``config`` that are tuned stand open, see :meth:`Grid.ready`. ``common`` says
    that they will be those that were chosen for stash.
    """

    path: Path
    cell: Cell
    config: RunConfig
    common: bool = False


@cache
def count_units(network: str, dataset: str, width: int | None) -> int:
    """Number of a network's units."""
    spec = describe(dataset)
    with torch.device("meta"):
        return len(build(network, input_shape=spec.input_shape, num_classes=spec.num_classes, width=width))
