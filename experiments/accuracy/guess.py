"""The test loss of guessing, below which a run must come to have learnt anything: for experiments that judge losses.

Guessing is the best answer that is the same for every question: each class with its share of the training labels. A
language model's classes are far from equally frequent, so it guesses much better than one over their number.
"""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.accuracy.grid import Grid
from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.lab.runs.records import read_json, write_json

FILE = "guess.json"
_REMEDY = "delete it if it is there, and start experiments.run again, which writes it"


def guess_nats(train: Tensor, test: Tensor, num_classes: int) -> float:
    """Mean cross-entropy of the test labels under the shares of the training labels, in nats.

    Every class counts once more than it comes (Laplace's rule of succession), so that the loss is finite.

    Args:
        train, test: int64 labels of any shape, from 0 to num_classes - 1.
        num_classes: of the data set.
    """
    count = partial(torch.bincount, minlength=num_classes)
    known, asked = count(train.flatten()).double() + 1, count(test.flatten()).double()
    return float(-(asked * (known / known.sum()).log()).sum() / asked.sum())


def measure(grid: Grid) -> None:
    """Write the loss of guessing beside the records, of every data set that lacks it, if the experiment judges losses.

    Raises:
        UserError: if a data set can't be read, or the file is broken.
    """
    if not grid.experiment.report.judges_losses:
        return
    path = grid.folder / FILE
    known = _read(path) if path.exists() else {}
    roots = {task.config.dataset: task.config.data_root for task in grid.tasks}
    missing = sorted(roots.keys() - known.keys())
    for name in missing:
        data = load(name, Path(root) if (root := roots[name]) else None)
        known[name] = float(f"{guess_nats(data.y_train, data.y_test, data.num_classes):.9g}")
    if missing:
        write_json(path, known)


def measured(grid: Grid) -> dict[str, float] | None:
    """Data set -> what :func:`measure` wrote; None if the experiment judges accuracies.

    Raises:
        UserError: if it is missing or broken.
    """
    if not grid.experiment.report.judges_losses:
        return None
    known = _read(grid.folder / FILE)
    if missing := [name for name in grid.experiment.datasets if name not in known]:
        raise UserError(f"{grid.folder / FILE} lacks {missing[0]}; {_REMEDY}")
    return {name: known[name] for name in grid.experiment.datasets}


def _read(path: Path) -> dict[str, float]:
    found = read_json(path, _REMEDY)
    for name, nats in found.items():
        if isinstance(nats, bool) or not isinstance(nats, int | float) or not 0 < nats < math.inf:
            raise UserError(f"{path}: {name} is {nats!r}, but a loss is a number above 0; {_REMEDY}")
    return found
