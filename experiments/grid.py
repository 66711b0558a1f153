"""The runs of an experiment, in the order in which they are done, and where their records stand.

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
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.schema import SEQUENTIAL, Experiment
from layerpipe2.data import describe
from layerpipe2.errors import UserError
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
    """One run.

    Attributes:
        path: of its record, below the folder of the experiment's records.
        config: its settings; in a final run of a tuned cell the learning rate stands open, see :meth:`Grid.ready`.
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
        tuning = [self._tune(cell, rate) for cell in self.cells for rate in self.rates(cell)]
        found = (*tuning, *(task for seed in self.experiment.seeds for task in self._final(seed)))
        path, times = Counter(task.path for task in found).most_common(1)[0]
        if times > 1:
            raise UserError(
                f"{self._file}: cell is {self.experiment.cell!r}, which gives {times} runs the record {path}; "
                "name what tells them apart, e.g. {network}"
            )
        return found

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, the baseline first wherever the network, the data set or the optimizer changes."""
        return tuple(self._cells())

    def choose(self, network: str | None, group: int | str | None) -> list[Task]:
        """The runs of one network, one partition, or both.

        Raises:
            UserError: if the experiment has none.
        """
        for name, value in (("network", network), ("group", group)):
            known = dict.fromkeys(getattr(cell, name) for cell in self.cells)
            if value is not None and value not in known:
                raise UserError(f"{self._file} has no {name} {value!r}; known: {', '.join(map(str, known))}")
        return [t for t in self.tasks if network in (None, t.cell.network) and group in (None, t.cell.group)]

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
        ignored = (*_MACHINE, "lr") if task.final and self.experiment.tuning else _MACHINE
        changed = [name for name in wanted if name not in ignored and found.get(name) != wanted[name]]
        if changed:
            was, now = found.get(changed[0]), wanted[changed[0]]
            raise UserError(
                f"record {path} was made with {changed[0]} {was!r}, the experiment has {now!r}; use another --out "
                "folder, or move the old records away"
            )
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
        reached = [_validation_accuracy(record) for record in records if record is not None]
        if len(reached) < len(rates):
            return None
        return rates[max(range(len(rates)), key=lambda i: (reached[i], -i))]

    def _cells(self) -> Iterator[Cell]:
        experiment = self.experiment
        for network in experiment.networks:
            for dataset in experiment.datasets:
                for optimizer in experiment.optimizers:
                    start = (network, dataset, optimizer)
                    yield Cell(*start, SEQUENTIAL, 1, SEQUENTIAL)
                    for group, stages in self._partitions(self._units(*start), network):
                        yield from (Cell(*start, group, stages, name) for name in experiment.strategies)

    def _units(self, network: str, dataset: str, optimizer: str) -> int:
        width = self.experiment.settings_of(network, dataset, optimizer).get("width")
        return count_units(dataset, network, width)

    def _partitions(self, units: int, network: str) -> Iterator[tuple[int, int]]:
        """Group size and number of stages of every partition: of several sizes that give one number, the smallest."""
        number = {size: -(-units // size) for size in range(units, 0, -1)}
        sizes = {stages: size for size, stages in number.items()}
        for size in self.experiment.group_sizes or ():
            yield size, number.get(size, 1)
        for stages in self.experiment.stages or ():
            if stages not in sizes:
                possible = ", ".join(map(str, sizes))
                raise UserError(
                    f"network {network} has {units} units, which can't be {stages} stages; possible: {possible}"
                )
            yield sizes[stages], stages

    def _tune(self, cell: Cell, rate: float) -> Task:
        assert self.experiment.tuning is not None
        config = self._config(cell, lr=rate, **dict(self.experiment.tuning))
        return Task(Path("tune") / self._name(cell) / f"lr-{rate:g}.json", cell, config, final=False)

    def _final(self, seed: int) -> Iterator[Task]:
        for cell in self.cells:
            path = Path("runs") / f"{self._name(cell)}-s{seed}.json"
            yield Task(path, cell, self._config(cell, seed=seed), final=True)
        warm_up = self.experiment.warm_up
        for cell in self.cells:
            if warm_up and cell.stages in warm_up.stages and cell.strategy in warm_up.strategies:
                path = Path("runs") / f"{self._name(cell)}-warm-s{seed}.json"
                config = self._config(cell, seed=seed, stash_epochs=float(warm_up.stash_epochs))
                yield Task(path, cell, config, final=True)

    def _name(self, cell: Cell) -> str:
        """Of a cell in file names, as in ``momentum-10-ema-span``."""
        return self.experiment.cell.format(**cell._asdict())

    def _config(self, cell: Cell, **changes: Any) -> RunConfig:
        baseline = cell.strategy == SEQUENTIAL
        partition: dict[str, Any] = {"group_size": self._units(*cell[:3]) if baseline else cell.group}
        values = self.experiment.settings_of(*cell[:3]) | {"strategy": cell.strategy} | partition | changes
        values |= {"convention": "none"} if baseline else {}
        return checked(RunConfig, values, self._file)

    @property
    def _file(self) -> str:
        return f"{self.experiment.name}.yaml"


@cache
def count_units(dataset: str, network: str, width: int | None) -> int:
    """Number of a network's units."""
    spec = describe(dataset)
    with torch.device("meta"):
        return len(build(network, input_shape=spec.input_shape, num_classes=spec.num_classes, width=width))


def _validation_accuracy(record: Record) -> float:
    if record["status"] != "completed":
        return -1.0
    accuracy: float = record["epochs"][-1]["val_accuracy"]
    return accuracy
