"""The runs of an experiment, in the order in which they are done, and where their records are.

``tune/<cell>/lr-<rate>.json``  short runs that choose the learning rate of a cell, if the experiment tunes
``runs/<cell>-s<seed>.json``    final runs; ``...-warm-s<seed>.json`` with warm-up

A cell is a network, a data set, an optimizer, a partition and a strategy. Each gets the same learning rates to choose
from, one short run each, on the validation part. The final runs are ordered by seed, so that whatever has been done at
any time is balanced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.schema import SEQUENTIAL, Experiment
from layerpipe2.data import describe
from layerpipe2.errors import UserError, shown
from layerpipe2.networks import build
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.records import Record, read_record
from layerpipe2.runs.validation import checked

_MACHINE = ("data_root", "device", "threads")  # settings that another machine may need otherwise


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

    In a final run of a tuned cell the learning rate of ``config`` stands open, see :meth:`Grid.ready`.
    """

    path: Path
    cell: Cell
    config: RunConfig
    final: bool

    @property
    def strategy(self) -> str:
        """The strategy's name in tables."""
        return self.cell.strategy + ("-warm" if self.config.stash_epochs else "")


@dataclass(frozen=True)
class Grid:
    """An experiment with the folder of its records: what is to be done, and what is done."""

    experiment: Experiment
    folder: Path

    @classmethod
    def of(cls, experiment: Experiment, folder: Path | None = None) -> Grid:
        """The grid in the experiment's own folder or another one."""
        return cls(experiment, folder or Path(experiment.records.format(name=experiment.name)))

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """All runs.

        Raises:
            UserError: if a network can't be cut as wanted, settings don't go together, or two runs have one record.
        """
        found = [self._tune(cell, rate) for cell in self.cells for rate in self.rates(cell)]
        found += [task for seed in self.experiment.seeds for task in self._final(seed)]
        path, times = Counter(task.path for task in found).most_common(1)[0]
        if times > 1:
            what = f"cell is {self.experiment.cell!r}, which gives {times} runs the record {path}"
            raise UserError(f"{self.experiment.name}.yaml: {what}; name what tells them apart, e.g. {{network}}")
        return tuple(found)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, the baseline first wherever the network, the data set or the optimizer changes."""
        experiment, found = self.experiment, list[Cell]()
        for start in product(experiment.networks, experiment.datasets, experiment.optimizers):
            found.append(Cell(*start, SEQUENTIAL, 1, SEQUENTIAL))
            cuts = self._partitions(*start)
            found += [Cell(*start, group, stages, name) for group, stages in cuts for name in experiment.strategies]
        return tuple(found)

    def choose(self, network: str | None, group: int | str | None) -> list[Task]:
        """The runs of one network, one partition (its group size as a number or in figures), or both.

        Raises:
            UserError: if the experiment has none.
        """
        wanted = {name: str(value) for name, value in (("network", network), ("group", group)) if value is not None}
        for name, value in wanted.items():
            known = dict.fromkeys(str(getattr(cell, name)) for cell in self.cells)
            if value not in known:
                raise UserError(f"{self.experiment.name}.yaml has no {name} {shown(value)}; known: {', '.join(known)}")
        return [t for t in self.tasks if all(str(getattr(t.cell, name)) == value for name, value in wanted.items())]

    def record(self, task: Task) -> Record | None:
        """The record of a task if it is finished.

        Raises:
            UserError: if it is damaged, or was made with other settings.
        """
        path = self.folder / task.path
        if not path.exists():
            return None
        record = read_record(path)
        found, wanted = record["config"], task.config.to_dict()
        ignored = (*_MACHINE, "lr") if task.final and self.experiment.tuning else _MACHINE
        changed = [name for name in wanted if name not in ignored and found.get(name) != wanted[name]]
        if changed:
            was, now = found.get(changed[0]), wanted[changed[0]]
            what = f"record {path} was made with {changed[0]} {was!r}, the experiment has {now!r}"
            raise UserError(f"{what}; use another --out folder, or move the old records away")
        return record

    def left(self, tasks: Sequence[Task]) -> list[Task]:
        """Those without a record."""
        return [task for task in tasks if self.record(task) is None]

    def ready(self, task: Task) -> RunConfig | None:
        """The settings of a run with its learning rate; None as long as its cell isn't tuned."""
        if not task.final or self.experiment.tuning is None:
            return task.config
        rate = self.best_rate(task.cell)
        return None if rate is None else task.config.copy_with(lr=rate)

    def rates(self, cell: Cell) -> tuple[float, ...]:
        """The learning rates that are tried; none without tuning."""
        return self.experiment.optimizer_settings[cell.optimizer].rates or ()

    def best_rate(self, cell: Cell) -> float | None:
        """The learning rate with the best validation accuracy at the end; None as long as a run is missing.

        Of equals the smallest, which is also what a cell gets in which every rate diverged.
        """
        rates = sorted(self.rates(cell))
        records = [self.record(self._tune(cell, rate)) for rate in rates]
        if None in records:
            return None
        reached = [r["epochs"][-1]["val_accuracy"] if r and r["status"] == "completed" else -1.0 for r in records]
        return rates[reached.index(max(reached))]

    def _partitions(self, network: str, dataset: str, optimizer: str) -> Iterator[tuple[int, int]]:
        """Group size and number of stages of every partition: of several sizes that give one number, the smallest."""
        units = count_units(network, dataset, self.experiment.settings_of(network, dataset, optimizer).get("width"))
        yield from ((size, -(-units // size)) for size in self.experiment.group_sizes or ())
        sizes = {-(-units // size): size for size in range(units, 0, -1)}
        for stages in self.experiment.stages or ():
            if stages not in sizes:
                what = f"network {network} has {units} units, which can't be {stages} stages"
                raise UserError(f"{what}; possible: {', '.join(map(str, sizes))}")
            yield sizes[stages], stages

    def _tune(self, cell: Cell, rate: float) -> Task:
        tuning = dict(self.experiment.tuning or {})
        return self._task(f"tune/*/lr-{rate:g}.json", cell, False, lr=rate, **tuning)

    def _final(self, seed: int) -> Iterator[Task]:
        yield from (self._task(f"runs/*-s{seed}.json", cell, True, seed=seed) for cell in self.cells)
        if warm_up := self.experiment.warm_up:
            changes = {"seed": seed, "stash_epochs": float(warm_up.stash_epochs)}
            for cell in self.cells:
                if cell.stages in warm_up.stages and cell.strategy in warm_up.strategies:
                    yield self._task(f"runs/*-warm-s{seed}.json", cell, True, **changes)

    def _task(self, path: str, cell: Cell, final: bool, **changes: Any) -> Task:
        """A run; the cell's name, as in ``momentum-10-ema-span``, stands for the ``*`` in the path of its record."""
        values = self.experiment.settings_of(*cell[:3]) | changes
        values |= {"strategy": cell.strategy, "group_size": cell.group}
        if cell.strategy == SEQUENTIAL:
            values |= {"group_size": count_units(*cell[:2], values.get("width")), "convention": "none"}
        name = self.experiment.cell.format(**cell._asdict())
        return Task(
            Path(path.replace("*", name)), cell, checked(RunConfig, values, f"{self.experiment.name}.yaml"), final
        )


@cache
def count_units(network: str, dataset: str, width: int | None) -> int:
    """Number of a network's units."""
    spec = describe(dataset)
    with torch.device("meta"):
        return len(build(network, input_shape=spec.input_shape, num_classes=spec.num_classes, width=width))
