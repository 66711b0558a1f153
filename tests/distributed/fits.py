"""Any training with a ``Trainer``, run by the simulator and by several processes: are results and weights equal?"""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import Delays, PipelinedModule, make_history
from layerpipe2.distributed.strategy import PipelineStrategy
from tests.distributed import processes


def dense():
    """Three stages with BatchNorm and dropout, 12 inputs, 4 classes."""
    first = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU())
    second = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Tanh())
    return [first, second, nn.Linear(16, 4)]


def pipelined(stages, strategy="ema-window", delays=None, **options):
    """A module with SGD, as long as ``options`` don't say otherwise."""
    late = Delays.custom(delays) if delays else Delays.layerpipe2(len(stages))
    options = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), "stage_seed": 3, **options}
    return PipelinedModule(stages, late, make_history(strategy), **options)


def noise(shape=(12,), size=40, batch=8, classes=4, **options):
    """A loader of noise with classes, always the same."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(size, *shape, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(classes, (size,), generator=generator)), batch, **options)


def trainer(strategy, **options):
    """A quiet ``Trainer`` of three epochs on the CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 3}
    return pl.Trainer(
        strategy=strategy or "auto",
        devices=1,
        **{"accelerator": "cpu", **quiet, "enable_model_summary": False, **options},
    )


class Rows(pl.Callback):
    """Everything that was logged, after every validation and every epoch."""

    def __init__(self):
        self.rows = []

    def on_validation_end(self, trainer, pl_module):
        self.rows.append({name: value.item() for name, value in trainer.callback_metrics.items()})

    on_train_epoch_end = on_validation_end


def assert_equal(work, world, strategy=PipelineStrategy, **options):
    """``work(strategy)`` returns what all processes must know, and the module: equal to the simulator's, bit for bit.

    ``work`` is called in forked processes, once without a strategy.
    """
    known, weights = _run(work, None)
    found = processes.run(lambda: _run(work, strategy(timeout_s=20, **options)), world)
    for other, _ in found:
        assert other == known
    merged = {name: value for _, own in found for name, value in own.items()}
    assert sorted(merged) == sorted(weights)
    assert [name for name, value in weights.items() if not torch.equal(merged[name], value)] == []


def _run(work, strategy):
    torch.manual_seed(0)
    known, module = work(strategy)
    return known, {name: value.clone() for name, value in module.state_dict().items()}


def fit(make, callbacks=list, data=noise, validation=None, **options):
    """Work for :func:`assert_equal`: trains ``make()`` on noise."""

    def work(strategy):
        rows, module = Rows(), make()
        trainer(strategy, callbacks=[rows, *callbacks()], **options).fit(module, data(), (validation or data)())
        return rows.rows, module

    return work
