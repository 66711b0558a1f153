"""Measure the most negative curvature along the warm-up of stash: ``python -m experiments.predicting.plateau``.

**Question**: does ``k`` = learning rate x |smallest eigenvalue| x largest delay, the largest of the warm-up, tell which
strategies diverge, better than the learning rate alone does, on networks that did not make it? And do the strategies
diverge in the order of their growth on a plateau (:mod:`layerpipe2.theory.plateau`)?

**Plan**, written before any measurement. One run of stash with a new seed for each network and rate, as long as its
warm-up, 10 measurements. Outcomes are those of records that exist: a strategy has diverged at a rate if at least half
of its runs did, or ended within a fifth of guessing. The searches of the default study on the MLP and the CNN make one
threshold per quantity, for all strategies; tried on its VGG and on the five coarse searches with plain SGD. Compared:
the rate, rate x delay, ``k``, and the growth ``x`` of each strategy at that ``k``. Better: a larger area under the ROC
curve over all strategies, rates and tried networks, and a bootstrap interval (95 %, over networks and rates) of the
difference to the rate's that is above 0. **Power**: about 30 points of 3 strategies; areas of 0.8 and 0.95 are told
apart four times in five (standard error 0.05 each, correlated 0.5), 0.85 and 0.95 are not.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import read_experiment
from experiments.predicting.curvature import hessian_product, largest_eigenpair
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.engine.execution import StepLimit
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.engine.replay import copied
from layerpipe2.lab.data import Data
from layerpipe2.lab.judging.designs import STASH
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.records import Row, write_csv
from layerpipe2.lab.runs.train import make_module
from layerpipe2.lab.runs.worker import load_once

FILE = Path("results/evidence/why-plateau/curvatures.csv")
DEFAULT, SEARCHES = "mnist1d", ("screen-mlp", "screen-cnn", "screen-vgg", "screen-resnet")
NETWORKS, RATES = ("mlp", "cnn-small", "vgg-small"), (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
SEED, MOMENTS, SAMPLES, PRODUCTS = 106, 10, 256, 20
_COLUMNS = ("experiment", "network", "num_stages", "peak_lr", "max_delay", "update", "lr", "smallest", "largest")


class Curvatures(pl.Callback):
    """The ends of the loss's spectrum at the latest weights, on one batch, before every ``every``-th update."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, every: int) -> None:
        self.x, self.y, self.every = x, y, every
        self.rows: list[Row] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Measure; a direction that is not finite gives NaN."""
        if (batch_idx + 1) % self.every:
            return
        with isolate_rng():
            stages = copied(pl_module.engine.stages)
            product, sizes = hessian_product(stages, self.x, self.y, pl_module.loss)
            like = next(stages[0].parameters())
            largest = largest_eigenpair(product, sum(sizes), like, PRODUCTS)[0]
            smallest = -largest_eigenpair(lambda v: -product(v), sum(sizes), like, PRODUCTS)[0]
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append({"update": batch_idx + 1, "lr": lr, "smallest": smallest, "largest": largest})


def configs() -> Iterator[tuple[str, int, RunConfig]]:
    """Experiment, number of stages and settings of every measurement."""
    default = Grid.of(read_experiment(DEFAULT))
    for cell in default.cells:
        if cell.network in NETWORKS and cell.strategy == STASH and default.tuned_with(cell) == cell:
            for lr in RATES:
                yield DEFAULT, cell.stages, default.study_config(cell, SEED).copy_with(lr=lr)
    for name in SEARCHES:
        grid = Grid.of(read_experiment(name))
        for task in grid.tasks:
            first = task.config.seed == grid.experiment.seeds[0]
            plain = task.config.optimizer == "sgd" and task.config.momentum == 0
            if first and plain and task.cell.strategy == STASH:
                yield name, task.cell.stages, task.config.copy_with(seed=SEED)


def measure(config: RunConfig, data: Data) -> tuple[int, list[Row]]:
    """The largest delay, and the rows of a warm-up."""
    torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    plan = make_plan(config, data.input_shape, data.num_classes)
    loader = make_loaders(config, data, torch.device("cpu"))["train"]
    updates = round(config.warmup_epochs * len(loader))
    module = make_module(plan, len(loader))
    batches = islice(loader, -(-SAMPLES // config.batch_size))
    pairs = [module.batch_format.pair(batch) for batch in batches]
    x, y = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    found = Curvatures(x, y, updates // MOMENTS)
    trainer = quiet_trainer(1, torch.device("cpu"), [found, StepLimit(updates)], limits=(None, 0))
    with running_lightning("You defined a `validation_step` but have no `val_dataloader`"):
        trainer.fit(module, loader)
    return max(plan.lags), found.rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, and write the table as it grows."""
    Parser(prog="python -m experiments.predicting.plateau", description=__doc__).parse_args(arguments)
    rows: list[Row] = []
    for name, stages, config in configs():
        delay, found = measure(config, load_once(config.dataset, config.data_root))
        about = {"experiment": name, "network": config.network, "num_stages": stages, "peak_lr": config.lr}
        values = ({key: float(f"{value:.6g}") for key, value in row.items()} for row in found)
        rows += [about | {"max_delay": delay} | row | {"update": int(row["update"])} for row in values]
        write_csv(FILE, _COLUMNS, rows)
        print(f"{name} {config.network}, {stages} stages, rate {config.lr:g}: {len(found)} moments", flush=True)


if __name__ == "__main__":
    sys.exit(run_command("experiments.predicting.plateau", main, None))
