"""Runs one after the other in one process, which reads each data set once and shows nothing.

Its imports are heavy: a server that processes are forked from does them once.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import torch

from layerpipe2.engine.device import resolve_device
from layerpipe2.lab.data import Data, load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.records import Record
from layerpipe2.lab.runs.train import train_run
from layerpipe2.lightning import pl


def check_runs(configs: Iterable[RunConfig]) -> None:
    """Build, but don't train, every run.

    Raises:
        UserError: as :func:`layerpipe2.lab.runs.train.train_run` would.
    """
    for config in configs:
        data = load_once(config.dataset, config.data_root)
        resolve_device(config.device)
        make_plan(config, data.input_shape, data.num_classes)
        make_loaders(config, data, torch.device("cpu"))


def train_quietly(config: RunConfig, callbacks: Sequence[pl.Callback] = (), *, test: bool = True) -> Record:
    """Train one run without a display, on the copy of the data set that this process keeps."""
    data = load_once(config.dataset, config.data_root)
    return train_run(config, data=data, progress=False, callbacks=callbacks, test=test)


@cache
def load_once(dataset: str, root: str | None) -> Data:
    """The data set, read once in this process."""
    return load(dataset, root)
