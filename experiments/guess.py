"""The test loss of guessing, below which a run must come to have learnt anything: for experiments that judge losses.

Guessing is the best answer that is the same for every question: each class with its share of the training labels. A
language model's classes are far from equally frequent, so it guesses much better than one over their number.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.grid import Grid
from layerpipe2.data import load
from layerpipe2.errors import UserError
from layerpipe2.runs.records import read_json, write_json

FILE = "guess.json"


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
    """Write the loss of guessing beside the records, if the experiment judges losses and it isn't there yet.

    Raises:
        UserError: if the data set can't be read.
    """
    path = grid.folder / FILE
    if grid.experiment.report.equivalence_margin_nats is None or path.exists():
        return
    config = grid.tasks[0].config
    data = load(config.dataset, Path(config.data_root) if config.data_root else None)
    nats = guess_nats(data.y_train, data.y_test, data.num_classes)
    write_json(path, {"dataset": data.name, "nats": float(f"{nats:.9g}")})


def measured(grid: Grid) -> float | None:
    """What :func:`measure` wrote; None if the experiment judges accuracies.

    Raises:
        UserError: if it is missing or broken.
    """
    if grid.experiment.report.equivalence_margin_nats is None:
        return None
    path = grid.folder / FILE
    remedy = f"delete it if it is there; python -m experiments.run {grid.experiment.name} writes it"
    nats = read_json(path, remedy).get("nats")
    if isinstance(nats, bool) or not isinstance(nats, float) or not nats > 0:
        raise UserError(f"{path}: nats is {nats!r}, but a loss is a number above 0; {remedy}")
    return nats
