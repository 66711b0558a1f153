"""Does the runs that have no record yet, one after the other in every process that takes part, on any machine.

The unit of work is one run, and its result is one record, written whole or not at all. A run whose record is there is
never done again; one that is being done has a lease beside its record (:mod:`layerpipe2.lab.tuning.leases`). So the
work can be stopped at any point and started again, anywhere the folder is visible.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import torch

from experiments.accuracy.grid import Grid, Task, code_of
from experiments.processes import follow, workers
from layerpipe2.cli.console import in_words
from layerpipe2.lab.provenance import provenance
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import Record, writable_folder
from layerpipe2.lab.tuning.places import Database, Folder, Place
from layerpipe2.lab.tuning.storage import told

_POLL = (0.1, 2.0)  # shortest and longest time in s between two looks at what the others are doing


@dataclass(frozen=True)
class Queue:
    """Runs of an experiment that are to be done.

    Attributes:
        deadline: time (``time.time()``) after which no run is begun.
        began: when the workers started (``time.time()``), and how many runs were finished then.
        storage: address of the database in which several machines meet; None: the folder.
        quiet: whether there is a bar on a terminal and a few lines elsewhere, instead of a line per run.
    """

    grid: Grid
    tasks: Sequence[Task]
    deadline: float | None = None
    quiet: bool = False
    storage: str | None = None
    began: tuple[float, int] | None = None

    def finished(self) -> int:
        """How many of the runs have a record by now."""
        return sum(cell_file.exists(self.grid.folder / task.path) for task in self.tasks)

    def time_left(self, finished: int) -> str:
        """In words, from the runs that were finished since this queue began; all runs count alike."""
        began, before = self.began or (time.time(), finished)
        if finished <= before or finished == len(self.tasks):
            return ""
        seconds = (time.time() - began) * (len(self.tasks) - finished) / (finished - before)
        return f"; about {in_words(seconds)} left"

    def place(self) -> Place:
        """Where the processes meet; each opens it for itself.

        Raises:
            UserError: if the database can't be used.
        """
        if self.storage is None:
            return Folder(self.grid.folder)
        return Database(self.grid.folder, self.storage, self.grid.experiment.name)

    def run(self, jobs: int, gpus: int) -> int:
        """Do them in ``jobs`` processes, of which number ``i`` has the CUDA device ``i mod gpus``.

        Every run is built, though not trained, before the first one starts.

        Returns:
            How many are left.

        Raises:
            UserError: a run's own, if a worker was killed, or if a folder can't be written.
        """
        with closing(self.place()) as place:
            place.fetch(task.path for task in self.tasks)
        left = self.grid.left(self.tasks)
        jobs = min(jobs, len(left))
        if not left:
            return 0
        with workers(jobs) as pool:
            pool.submit(_check, left).result()
            for folder in {self.grid.folder / task.path.parent for task in left}:
                writable_folder(folder)
            begun = replace(self, began=(time.time(), len(self.tasks) - len(left)))
            bar = self.quiet and sys.stderr.isatty()
            follow(
                pool,
                [(work, begun, i % gpus if gpus else None) for i in range(jobs)],
                self.grid.experiment.name,
                "run",
                len(self.tasks),
                self.finished,
                look_s=0.5 if self.quiet else None,
                bar=bar,
                lines=self.quiet and not bar,
                more=begun.time_left,
            )
        return len(self.grid.left(self.tasks))


def work(queue: Queue, gpu: int | None) -> None:
    """Do runs until none is left that could be begun, now or later; a worker calls it."""
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[gpu] if gpu < len(visible) and visible[gpu] else str(gpu)
    # Notes the commit of the code that is loaded: the checkout may move in the meantime.
    provenance(torch.device("cpu"))
    waiting, pause = list(queue.tasks), _POLL[0]
    errors = told(f"{queue.grid.experiment.name}: the database") if queue.storage else nullcontext()
    with closing(queue.place()) as place, errors:
        while waiting and (queue.deadline is None or time.time() < queue.deadline):
            place.fetch(task.path for task in waiting)
            waiting = queue.grid.left(waiting)
            if _do_one(queue, waiting, place):
                pause = _POLL[0]
            elif waiting:
                time.sleep(pause)
                pause = min(2 * pause, _POLL[1])


def _do_one(queue: Queue, waiting: list[Task], place: Place) -> bool:
    """Do the first run that is ready and that nobody else does."""
    from layerpipe2.lab.runs.worker import train_quietly

    for task in waiting:
        config = queue.grid.ready(task)
        with place.holding(task.path) as mine:
            # Between the look and the claim another process may have finished it.
            if mine:
                place.fetch([task.path])
            if not mine or queue.grid.record(task) is not None:
                continue
            record = train_quietly(config)
            record["provenance"]["code"] = code_of(config)
            queue.grid.keep(task, record)
            place.post(task.path, queue.grid.record(task) or record)
        if not queue.quiet:
            _say(queue, task, record)
        return True
    return False


def _check(tasks: Sequence[Task]) -> None:
    from layerpipe2.lab.runs.worker import check_runs

    check_runs({task.cell: task.config for task in tasks}.values())


def _say(queue: Queue, task: Task, record: Record) -> None:
    done = queue.finished()
    completed = record["status"] == "completed"
    outcome = f"validation {record['epochs'][-1]['val_accuracy']:.2%}" if completed else record["status"]
    seconds = record["provenance"]["wall_time_s"]
    label = str(task.path.with_suffix("")).replace("/", " ")
    line = f"{done}/{len(queue.tasks)} {label}: lr {record['config']['lr']:g}, {outcome}, {seconds:.0f} s"
    print(line + queue.time_left(done), file=sys.stderr, flush=True)
