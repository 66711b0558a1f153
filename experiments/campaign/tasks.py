"""The runs of a campaign, in the order in which they are done, and where their records stand.

``tune/<optimizer>-<stages>-<strategy>/lr-<rate>.json``  short runs that choose the learning rate of a cell
``runs/<optimizer>-<stages>-<strategy>-s<seed>.json``    final runs; ``...-warm-s<seed>.json`` with warm-up

A cell is an optimizer, a number of stages and a strategy. Each gets the same learning rates to choose from, one short
run each, on the validation part. The final runs are ordered by seed, so that whatever has been done at any time is
balanced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.campaign.params import Profile
from experiments.study.params import SEQUENTIAL
from layerpipe2.data import describe
from layerpipe2.errors import UserError
from layerpipe2.networks import build
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.records import Record, read_record

_MACHINE = ("data_root", "device", "threads")  # settings that another machine may need otherwise


class Cell(NamedTuple):
    """What has a learning rate of its own."""

    optimizer: str
    stages: int
    strategy: str

    @property
    def name(self) -> str:
        """Name in file names, as in ``momentum-10-ema-span``."""
        return f"{self.optimizer}-{self.stages}-{self.strategy}"


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        path: of its record, below the campaign's folder.
        config: its settings; in a final run the learning rate stands open, see :meth:`Campaign.ready`.
        final: whether it is a final run.
    """

    path: Path
    cell: Cell
    config: RunConfig
    final: bool

    @property
    def label(self) -> str:
        """The run in words."""
        return str(self.path.with_suffix("")).replace("/", " ")


@dataclass(frozen=True)
class Campaign:
    """A profile with its folder: what is to be done, and what is done."""

    profile: Profile
    folder: Path

    def tasks(self) -> list[Task]:
        """All runs.

        Raises:
            UserError: if a number of stages can't be had from the network's units, or settings don't go together.
        """
        cells = list(self._cells())
        tuning = [self._tune(cell, rate) for cell in cells for rate in self.profile.optimizers[cell.optimizer].rates]
        return [*tuning, *(task for seed in self.profile.seeds for task in self._final(cells, seed))]

    def record(self, task: Task) -> Record | None:
        """The record of a task if it is finished.

        Raises:
            UserError: if it is broken, or was made with other settings.
        """
        path = self.folder / task.path
        if not path.is_file():
            return None
        record = read_record(path)
        found, wanted = record["config"], task.config.to_dict()
        ignored = (*_MACHINE, "lr") if task.final else _MACHINE
        changed = [name for name in wanted if name not in ignored and found.get(name) != wanted[name]]
        if changed:
            was, now = found.get(changed[0]), wanted[changed[0]]
            raise UserError(f"record {path} was made with {changed[0]} {was!r}, the profile has {now!r}; use another "
                            "--out folder, or move the old records away")  # fmt: skip
        return record

    def ready(self, task: Task) -> RunConfig | None:
        """The settings of a run with its learning rate; None as long as its cell isn't tuned."""
        if not task.final:
            return task.config
        rate = self.best_rate(task.cell)
        return None if rate is None else task.config.copy_with(lr=rate)

    def best_rate(self, cell: Cell) -> float | None:
        """The learning rate with the best validation accuracy at the end; None as long as a run is missing.

        Of equals the smallest, which is also what a cell gets in which every rate diverged.
        """
        rates = sorted(self.profile.optimizers[cell.optimizer].rates)
        records = [self.record(self._tune(cell, rate)) for rate in rates]
        reached = [_validation_accuracy(record) for record in records if record is not None]
        if len(reached) < len(rates):
            return None
        return rates[max(range(len(rates)), key=lambda i: (reached[i], -i))]

    def _cells(self) -> Iterator[Cell]:
        for optimizer in self.profile.optimizers:
            yield Cell(optimizer, 1, SEQUENTIAL)
            for stages in self.profile.stages:
                yield from (Cell(optimizer, stages, strategy) for strategy in self.profile.strategies)

    def _tune(self, cell: Cell, rate: float) -> Task:
        tuning = self.profile.tuning
        config = self._config(cell, lr=rate, **tuning)
        return Task(Path("tune") / cell.name / f"lr-{rate:g}.json", cell, config, final=False)

    def _final(self, cells: list[Cell], seed: int) -> Iterator[Task]:
        for cell in cells:
            config = self._config(cell, seed=seed)
            yield Task(Path("runs") / f"{cell.name}-s{seed}.json", cell, config, final=True)
        warm_up = self.profile.warm_up
        for cell in cells:
            if warm_up and cell.stages in warm_up["stages"] and cell.strategy in warm_up["strategies"]:
                config = self._config(cell, seed=seed, stash_epochs=float(warm_up["stash_epochs"]))
                yield Task(Path("runs") / f"{cell.name}-warm-s{seed}.json", cell, config, final=True)

    def _config(self, cell: Cell, **changes: Any) -> RunConfig:
        profile = self.profile
        settings = dict(profile.settings) | dict(profile.optimizers[cell.optimizer].settings)
        group = _group_size(settings["dataset"], settings["network"], settings.get("width"), cell.stages)
        convention = {"convention": "none"} if cell.strategy == SEQUENTIAL else {}
        return RunConfig.from_dict(settings | {"strategy": cell.strategy, "group_size": group} | convention | changes)


@cache
def _group_size(dataset: str, network: str, width: int | None, stages: int) -> int:
    """The smallest group size that cuts the network into so many stages."""
    spec = describe(dataset)
    with torch.device("meta"):  # only the number of units is needed
        units = len(build(network, input_shape=spec.input_shape, num_classes=spec.num_classes, width=width))
    sizes = [size for size in range(1, units + 1) if -(-units // size) == stages]
    if not sizes:
        possible = sorted({-(-units // size) for size in range(1, units + 1)})
        raise UserError(f"network {network} has {units} units, which can't be {stages} stages; possible: "
                        f"{', '.join(map(str, possible))}")  # fmt: skip
    return sizes[0]


def _validation_accuracy(record: Record) -> float:
    if record["status"] != "completed":
        return -1.0
    accuracy: float = record["epochs"][-1]["val_accuracy"]
    return accuracy
