"""The runs of an experiment, in the order in which they are done, and where their records are.

``tune/<cell>/``              study of a strategy at its largest number of stages, if the experiment is tuned
``tuned.json``                what the studies have chosen; ``front.json`` the mitigations that have final runs
``runs/<cell>-s<seed>.json``  final runs; ``...-common-s<seed>.json`` with the settings that were chosen for stash;
                              lines of their folder's ``records.jsonl`` (:mod:`layerpipe2.lab.runs.cell_file`)

A cell is a network, a data set, an optimizer, a partition and a strategy. The final runs are ordered by seed, so that
whatever has been done at any time is balanced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments import field
from experiments.accuracy.schema import Experiment
from layerpipe2.engine.device import device_name, resolve_device
from layerpipe2.errors import UserError, shown
from layerpipe2.lab.data import describe
from layerpipe2.lab.judging.designs import LATEST, SEQUENTIAL, STASH
from layerpipe2.lab.networks import build
from layerpipe2.lab.provenance import TRAINING
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.config import FURTHER_OPTIMIZERS, RunConfig
from layerpipe2.lab.runs.records import (
    Record,
    keep_record,
    output_file,
    read_json,
    split_times,
    with_times,
    write_json,
)
from layerpipe2.lab.runs.validation import checked
from layerpipe2.strategies import find_strategy
from layerpipe2.versions import code_hash, versions


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


TUNED = "tuned.json"
"""File of the chosen settings: network -> cell -> setting -> value."""
FRONT = "front.json"
"""File of the mitigations that have final runs, where not all have."""
_MACHINE = ("data_root", "device", "threads")  # settings that another machine may need otherwise


def code_of(config: RunConfig) -> str:
    """Hash of the code that a run's numbers depend on: that of :mod:`experiments.field` too, if it has a row of it."""
    own = find_strategy(config.strategy).family == "field" or config.optimizer in FURTHER_OPTIMIZERS
    return code_hash(TRAINING) + (f"-{code_hash(package=Path(field.__file__).parent)}" if own else "")


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
        """List all runs.

        Raises:
            UserError: if a network can't be cut as wanted, settings don't go together, or two runs have one record.
        """
        found = [task for seed in self.experiment.all_seeds for task in self._final(seed)]
        found += [task for seed in self.experiment.common_seeds or () for task in self._common(seed)]
        path, times = Counter(task.path for task in found).most_common(1)[0]
        if times > 1:
            what = f"cell is {self.experiment.cell!r}, which gives {times} runs the record {path}"
            raise UserError(f"{self.experiment.name}.yaml: {what}; name what tells them apart, e.g. {{network}}")
        return tuple(found)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """List all cells, the baseline first wherever the network, the data set or the optimizer changes."""
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
        record = cell_file.read(self.folder / task.path)
        if record is None:
            return None
        record = with_times(record, self._times(task))
        found, wanted = record["config"], self.ready(task).to_dict()
        fields = (name for name in RunConfig.model_fields if name not in _MACHINE)
        changed = [name for name in fields if found.get(name) != wanted.get(name)]
        if changed:
            was, now = found.get(changed[0]), wanted.get(changed[0])
            what = f"record {cell_file.place(self.folder / task.path)} was made with {changed[0]} {was!r}"
            remedy = "use another --out folder, or move the old records away"
            raise UserError(f"{what}, the experiment has {now!r}; {remedy}")
        return record

    def keep(self, task: Task, record: Record) -> None:
        """Write the record of a run that has just ended.

        Raises:
            UserError: if it can't be written, with the place where it is now.
        """
        if self.experiment.times_apart:
            whole, (record, times) = record, split_times(record)
            try:
                write_json(output_file(self._times(task)), times)
            except UserError:
                record = whole
        keep_record(self.folder / task.path, record, cell_file.write)

    def outdated(self, tasks: Sequence[Task]) -> list[Path]:
        """Records of these tasks that other settings, code or versions made, and those that no run has any more.

        The latter are looked for in the outermost folders of these tasks, such as ``runs/mlp``.

        Raises:
            UserError: if a choice is missing: then nothing is known of the records.
        """
        mine = {self.folder / task.path: task for task in tasks}
        others = {self.folder / task.path for task in self.tasks} - mine.keys()
        folders = sorted({self.folder.joinpath(*task.path.parent.parts[:2]) for task in tasks})
        found = [path for folder in folders for path in cell_file.find(folder) if path not in others]
        for task in tasks:
            self.ready(task)
        return [path for path in found if path not in mine or not self._is_of_now(mine[path])]

    def _is_of_now(self, task: Task) -> bool:
        """Whether a record is there that this code, with these versions on such a device, would make again."""
        try:
            record = self.record(task)
        except UserError:
            return False
        where = record["provenance"] if record is not None else {}
        now = code_of(task.config), versions(), device_name(resolve_device(task.config.device))
        return (where.get("code"), where.get("versions"), where.get("device")) == now

    def _times(self, task: Task) -> Path:
        return self.folder / "times" / task.path.relative_to(task.path.parts[0])

    def left(self, tasks: Sequence[Task]) -> list[Task]:
        """Return those of the tasks that have no record."""
        return [task for task in tasks if self.record(task) is None]

    def ready(self, task: Task) -> RunConfig:
        """The settings of a run, with those that a study has chosen.

        Raises:
            UserError: if the study's choice is missing.
        """
        if self.experiment.tuning is None:
            return task.config
        if task.common and task.cell.network in self.experiment.common_rates:
            return task.config.copy_with(lr=self.experiment.common_rates[task.cell.network])
        like = task.cell._replace(strategy=STASH) if task.common else task.cell
        return task.config.copy_with(**self.chosen(like))

    @cached_property
    def _dropped(self) -> frozenset[str]:
        """Mitigations that the search has left out of the front."""
        if self.experiment.front is None:
            return frozenset()
        again = f"run python -m experiments.tune {self.experiment.name}"
        chosen = read_json(self.folder / FRONT, again)["front"]
        return frozenset(name for name in self.rows if name not in chosen)

    @property
    def rows(self) -> list[str]:
        """The mitigations among the strategies, of which ``front`` says how many have final runs."""
        given = self.experiment
        return [name for name in given.strategies if find_strategy(given.provisional(name)).family == "field"]

    def rate(self, task: Task) -> str:
        """Where the learning rate of a final run comes from: see :mod:`experiments.accuracy.tables`."""
        if self.experiment.tuning is None:
            return task.cell.optimizer
        return "common" if task.common else "tuned"

    def chosen(self, cell: Cell) -> dict[str, Any]:
        """What the study of a cell's strategy has chosen.

        Raises:
            UserError: if there is no such study yet.
        """
        try:
            return dict(self._tuned[cell.network][self.name(self.tuned_with(cell))])
        except (KeyError, TypeError, ValueError):
            again = f"run python -m experiments.tune {self.experiment.name}"
            raise UserError(f"{self.folder / TUNED} has no choice for {self.name(cell)}; {again}") from None

    @cached_property
    def _tuned(self) -> dict[str, Any]:
        return read_json(self.folder / TUNED, f"run python -m experiments.tune {self.experiment.name}")

    def tuned_with(self, cell: Cell) -> Cell:
        """The cell whose study chooses for this one: the same strategy at the largest number of stages."""
        return self._deepest[*cell[:3], cell.strategy]

    @cached_property
    def _deepest(self) -> dict[tuple[str, ...], Cell]:
        found: dict[tuple[str, ...], Cell] = {}
        for cell in sorted(self.cells, key=lambda cell: cell.stages, reverse=True):
            found.setdefault((*cell[:3], cell.strategy), cell)
        return found

    def name(self, cell: Cell) -> str:
        """Return what a cell is called in file names."""
        return self.experiment.cell.format(**cell._asdict())

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

    def study_config(self, cell: Cell, seed: int) -> RunConfig:
        """The settings of the trials of a cell's study with this seed, but for those that are tuned.

        Reconstructions are measured in final runs alone.
        """
        tuning = self.experiment.tuning
        given = {} if tuning is None else {"seed": seed, "epochs": tuning.epochs, "probe_every": 0}
        changes = {name: value for name, value in given.items() if value is not None}
        return self._task("*", cell, **changes).config

    def _final(self, seed: int) -> Iterator[Task]:
        for cell in self.cells:
            if seed in self._seeds_of(cell) and cell.strategy not in self._dropped:
                yield self._task(f"runs/*-s{seed}.json", cell, seed=seed)

    def _seeds_of(self, cell: Cell) -> Sequence[int]:
        """Seeds of a cell's ordinary runs: with stash and sequential training all others are compared."""
        deepest = cell.strategy == SEQUENTIAL or cell.stages == self.tuned_with(cell).stages
        if not deepest:
            return self.experiment.seeds if self.experiment.other_seeds is None else self.experiment.other_seeds
        compared = cell.strategy == SEQUENTIAL or not self._has_common(cell)
        controls = self.experiment.control_seeds if cell.strategy in (STASH, LATEST) else None
        return [*self.experiment.seeds, *(self._common_seeds(cell.network) if compared else ()), *(controls or ())]

    def _common_seeds(self, network: str) -> Sequence[int]:
        """Seeds of a network's runs at one rate; where rates are given, only their networks have such runs."""
        given = self.experiment
        return () if given.common_rates and network not in given.common_rates else given.common_seeds or ()

    def _has_common(self, cell: Cell) -> bool:
        """Whether a cell has runs of its own at the common rate."""
        deepest = cell.strategy != SEQUENTIAL and cell.stages == self.tuned_with(cell).stages
        return deepest and (cell.strategy != STASH or cell.network in self.experiment.common_rates)

    def _common(self, seed: int) -> Iterator[Task]:
        """The deepest pipelines' runs of one seed with one rate for all: that of stash, or one that is given."""
        for cell in self.cells:
            if self._has_common(cell) and seed in self._common_seeds(cell.network):
                yield replace(self._task(f"runs/*-common-s{seed}.json", cell, seed=seed), common=True)

    def _task(self, path: str, cell: Cell, **changes: Any) -> Task:
        """A run; the cell's name, as in ``sgd-9-ema-span``, stands for the ``*`` in the path of its record."""
        values = self.experiment.settings_of(*cell[:3]) | changes
        values |= {"strategy": self.experiment.provisional(cell.strategy), "group_size": cell.group}
        if self.experiment.probe_seeds is not None and values.get("seed") not in self.experiment.probe_seeds:
            values["probe_every"] = 0
        if cell.strategy == SEQUENTIAL:
            values |= {"group_size": count_units(*cell[:2], values.get("width")), "convention": "none", "delays": None}
        return Task(
            Path(path.replace("*", self.name(cell))),
            cell,
            checked(RunConfig, values, f"{self.experiment.name}.yaml"),
        )
