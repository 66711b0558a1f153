"""Training as Lightning's users do it: early stops, validations anywhere, training again; shuffled data and hooks."""

import math
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import DeviceStatsMonitor, EarlyStopping, LearningRateMonitor, RichProgressBar, Timer
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from layerpipe2.engine.execution import StepLimit
from layerpipe2.pipeline.strategy import PipelineStrategy
from layerpipe2.pipeline.training_settings import remaining_batches
from tests.pipeline import processes
from tests.pipeline.fits import Rows, assert_all_equal, assert_equal, dense, fit, noise, pipelined, trainer
from tests.sampling import slow


class Scaled(nn.Module):
    """Keeps a constant for the backward pass."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, 16)
        self.register_buffer("scale", torch.linspace(0.5, 1, 16))

    def forward(self, x):
        return torch.tanh(self.linear(x)) * self.scale


class Dropping(nn.Module):
    def __init__(self, rate=0.3):
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, outputs, targets):
        return F.cross_entropy(self.dropout(outputs), targets)


def early():
    return [EarlyStopping("val_loss", patience=1, min_delta=10.0)]


def dropping(validation=None, **options):
    """A loss that draws random numbers while it trains."""
    data = partial(noise, generator=torch.Generator())
    return fit(lambda: pipelined(dense(), loss=Dropping()), data=data, validation=validation or data, **options)


def own_generator():
    return noise(shuffle=True, generator=torch.Generator().manual_seed(1))


def half():
    """Its sampler changes with the epoch."""
    data = noise().dataset
    return DataLoader(data, 16, sampler=DistributedSampler(data, num_replicas=2, rank=0, shuffle=True))


def plain(drain=False, **options):
    return fit(lambda: pipelined(dense(), drain=drain), **options)


STOPS = {
    "early": {"callbacks": early, "max_epochs": 9},
    "a limit of steps": {"callbacks": lambda: [StepLimit(7)]},
    "in between": {"val_check_interval": 2},
    "over epochs": {"val_check_interval": 7, "check_val_every_n_epoch": None},
    "early, in between": {"callbacks": early, "val_check_interval": 2},
    "rarely": {"check_val_every_n_epoch": 2, "max_epochs": 4},
    "the Trainer's limit": {"max_steps": 7},
    "no first try": {"num_sanity_val_steps": 0, "limit_val_batches": 2},
}
QUICK = {
    **{name: plain(**options) for name, options in [*STOPS.items()][::2]},
    "a generator": plain(data=own_generator, validation=noise),
    "the default generator": plain(data=lambda: noise(shuffle=True), limit_val_batches=0, validation=noise),
    "shuffled and drained": plain(True, data=lambda: noise(shuffle=True), validation=noise),
    "a smaller mini-batch": plain(data=lambda: noise(size=45)),
    "double": plain(precision="64-true"),
    "random numbers of a loss": dropping(max_epochs=3),
    "too late": dropping(noise, max_epochs=1),
    "a sampler by epoch": plain(validation=half),
    "a constant buffer": fit(lambda: pipelined([Scaled(12), Scaled(16), nn.Linear(16, 4)])),
}
SLOW = {f"{name}, {drain}": plain(drain, **options) for name, options in STOPS.items() for drain in (False, True)}


@pytest.mark.parametrize("rows", [QUICK, pytest.param(SLOW, marks=slow)], ids=["quick", "slow"])
def test_stops_validations_and_loaders(rows):
    assert_all_equal(rows, 2)


def limited(folder, strategy):
    module, one = pipelined(dense()), trainer(strategy, [StepLimit(7), _Save(folder / "a.ckpt")])
    one.fit(module, noise(), noise())
    return one.global_step, module


def test_a_callback_that_saves_must_be_announced(tmp_path):
    with pytest.raises(AssertionError, match=r"were not kept; give the Trainer a\s+checkpoint callback, or Pipeline"):
        processes.run(lambda: limited(tmp_path, PipelineStrategy(timeout_s=20)), 2)
    assert list(tmp_path.iterdir()) == []


class _Save(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if isinstance(trainer.strategy, PipelineStrategy):
            trainer.save_checkpoint(self.path)


class Noise(pl.LightningDataModule):
    """Data that are changed before, while and after they are sent to the device."""

    def train_dataloader(self):
        return noise()

    val_dataloader = train_dataloader

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x + 0.5 if self.trainer.training else x, y

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        x, y = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return x * 2, y

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x - 1, y


def watched(folder, strategy):
    watching = [Timer(timedelta(hours=1)), LearningRateMonitor(), DeviceStatsMonitor(cpu_stats=True)]
    options = {"logger": CSVLogger(folder), "enable_progress_bar": True, "log_every_n_steps": 1}
    module, one = pipelined(dense()), trainer(strategy, [*watching, RichProgressBar()], **options)
    one.fit(module, noise(), noise())
    return one.global_step, module


def weighted(folder, strategy):
    """A loss with buffers, which every process has."""
    module = pipelined(dense(), loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0])))
    trainer(strategy, folder=folder, max_epochs=2).fit(module, noise(), noise())
    return [], module.stages


def trained_again(folder, strategy, drain=False):
    """After an early stop."""
    module, found = pipelined(dense(), drain=drain), []
    for _ in range(2):
        first = trainer(strategy, early(), max_epochs=9)
        first.fit(module, noise(), noise())
        found += [first.current_epoch, first.test(module, noise(batch=20), verbose=False)]
        strategy = strategy and PipelineStrategy(timeout_s=20)
    return found, module


def hooked(folder, strategy):
    rows, module = Rows(), pipelined(dense())
    trainer(strategy, [rows], num_sanity_val_steps=0).fit(module, datamodule=Noise())
    return rows.rows, module


def predicted(folder, strategy):
    """Outputs of pairs and of inputs alone, after training and test, with a last mini-batch that is smaller."""
    module, one, pairs = pipelined(dense()), trainer(strategy, max_epochs=1), noise(size=21)
    one.fit(module, noise(), noise())
    one.test(module, pairs, verbose=False)
    found = [one.predict(module, data) for data in (pairs, DataLoader(pairs.dataset.tensors[0], 8))]
    assert [len(part) for part in found[1]] == [8, 8, 5]
    return [part.tolist() for predictions in found for part in predictions], module


def test_other_things_that_users_do(tmp_path):
    works = {work.__name__: work for work in (watched, weighted, trained_again, hooked, predicted)}
    works["drained"] = partial(trained_again, drain=True)
    rows = {name: partial(work, tmp_path) for name, work in works.items()}
    assert_all_equal(rows | {"saved": (partial(limited, tmp_path), {"resumable": True})}, 2)
    assert_equal(partial(predicted, tmp_path), 3)


class Prepared(Noise):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def prepare_data(self):
        (self.folder / str(len(list(self.folder.iterdir())))).touch(exist_ok=False)


def test_one_process_prepares_the_data(tmp_path):
    processes.run(lambda: trainer(PipelineStrategy(), max_epochs=1).fit(pipelined(dense()), Prepared(tmp_path)), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def _first_in_processes(strategy):
    """Two trainings in a row; the second is simulated."""
    module = pipelined(dense())
    for chosen in (strategy, None):
        last = trainer(chosen, max_epochs=2)
        last.fit(module, noise(), noise())
    return [module.engine.step_count.tolist(), last.test(module, noise(batch=20), verbose=False)], module


def test_a_module_of_one_process_can_be_simulated_afterwards():
    assert_equal(_first_in_processes, 1)


def test_a_module_without_all_stages_can_not_be_simulated():
    with pytest.raises(AssertionError, match="left this one some of the stages only; make the module anew"):
        processes.run(lambda: _first_in_processes(PipelineStrategy(timeout_s=20)), 2)


def remaining(accumulate=1, callbacks=(), **given):
    asked = {"max_epochs": 3, "max_steps": -1, "current_epoch": 0, "global_step": 0, "num_training_batches": 5}
    trainer = SimpleNamespace(callbacks=list(callbacks), **asked | given)
    return remaining_batches(SimpleNamespace(trainer=trainer, accumulate=accumulate))


@pytest.mark.parametrize(
    ("batches", "given"),
    [
        (15, {}),
        (10, {"current_epoch": 1}),
        (7, {"max_steps": 7}),
        (4, {"max_steps": 9, "current_epoch": 1, "global_step": 5}),
        (8, {"max_steps": 4, "accumulate": 2}),
        (6, {"max_epochs": -1, "max_steps": 6}),
        (math.inf, {"max_epochs": None}),
        (12, {"callbacks": [StepLimit(12)]}),
        (2, {"callbacks": [StepLimit(12)], "current_epoch": 2, "max_epochs": 4}),
    ],
)
def test_mini_batches_that_are_left(batches, given):
    assert remaining(**given) == batches
