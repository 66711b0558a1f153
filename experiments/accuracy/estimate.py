"""How long runs will take on this machine, from a few steps of them."""

import time
import warnings
from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from experiments.accuracy.grid import Task
from experiments.processes import workers
from layerpipe2.lab.runs.config import RunConfig

# Steps before the clock starts, and steps on it. The CUDA graph is captured in the fourth step; a CPU is slow and even.
_STEPS = {"cuda": (6, 20), "cpu": (1, 4)}


class Speed(NamedTuple):
    """Measured seconds per training step and per evaluation batch, and how many of them an epoch and a test have."""

    step: float
    evaluation: float
    steps: int
    validation: int
    test: int

    def seconds(self, epochs: int) -> float:
        """Return the seconds of a whole run."""
        return epochs * (self.steps * self.step + self.validation * self.evaluation) + self.test * self.evaluation


class _Clock(Checkpoint):
    """When the epoch and every one of its batches ended.

    It is a ``Checkpoint`` because Lightning adds one that writes files where there is none.
    """

    def __init__(self) -> None:
        self.training: list[float] = []
        self.validation: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *batch: Any) -> None:
        self.training.append(now(pl_module.device))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, *batch: Any) -> None:
        self.validation.append(now(pl_module.device))

    on_train_start, on_validation_start = on_train_batch_end, on_validation_batch_end


def measure(config: RunConfig) -> Speed:
    """Time a few steps of a run; a worker calls it.

    Raises:
        UserError: as the run would.
    """
    from layerpipe2.engine.device import resolve_device
    from layerpipe2.engine.quiet_trainer import quiet_trainer
    from layerpipe2.lab.runs.plan import make_loaders, make_plan
    from layerpipe2.lab.runs.train import make_module
    from layerpipe2.lab.runs.worker import load_once

    device, data = resolve_device(config.device), load_once(config.dataset, config.data_root)
    torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    plan, loaders = make_plan(config, data.input_shape, data.num_classes), make_loaders(config, data, device)
    sizes = {name: len(loader) for name, loader in loaders.items()}
    before, steps = _STEPS[device.type]
    clock = _Clock()
    whole = before + steps + -(before + steps) % plan.accumulate
    trainer = quiet_trainer(1, device, [clock], limits=(whole, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this is no training: the run itself will warn
        trainer.fit(make_module(plan, sizes["train"]), loaders["train"], loaders["validation"])
    step, evaluation = _last(clock.training, steps), _last(clock.validation, 1)
    return Speed(step, evaluation, sizes["train"], sizes["validation"], sizes["test"])


def estimate(left: Sequence[Task], *, jobs: int) -> tuple[float, dict[str, Speed]]:
    """Seconds until the tasks ``left`` are done, and the speeds behind it.

    Measured in ``jobs`` processes at once, as the runs will be. All pipelined runs are taken to be as slow as the
    deepest one.

    Raises:
        UserError: as the runs would.
    """
    kinds = {"sequential": [t for t in left if t.cell.stages == 1], "pipelined": [t for t in left if t.cell.stages > 1]}
    total, speeds = 0.0, {}
    with workers(jobs) as pool:
        for kind, tasks in kinds.items():
            if tasks:
                deepest = max(tasks, key=lambda task: task.cell.stages)
                found = list(pool.map(measure, [deepest.config] * jobs))
                step, evaluation = mean(s.step for s in found), mean(s.evaluation for s in found)
                speeds[kind] = found[0]._replace(step=step, evaluation=evaluation)
                total += sum(speeds[kind].seconds(task.config.epochs) for task in tasks)
    return total / jobs, speeds


def _last(times: Sequence[float], count: int) -> float:
    """Mean seconds of the last batches, ``count`` of them or as many as there are."""
    count = min(count, len(times) - 1)
    return (times[-1] - times[-1 - count]) / count


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
