"""Any training with a ``Trainer``, run by the simulator and by several processes: are results and weights equal?"""

import os
import signal
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import Delays, PipelinedModule, make_strategy, partition
from layerpipe2.engine.stage import Stage
from layerpipe2.lab import networks
from layerpipe2.lab.data import BatchLoader, TensorSplit
from layerpipe2.pipeline.in_flight import InFlight
from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes


def dense():
    """Three stages with BatchNorm and dropout, 12 inputs, 4 classes."""
    second = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Tanh())
    return [nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU()), second, nn.Linear(16, 4)]


def pipelined(stages, strategy="ema-window", delays=None, law="layerpipe2", **options):
    """A module with SGD, as long as ``options`` don't say otherwise."""
    late = Delays.custom(delays) if delays else Delays.by_law(law, len(stages))
    strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
    options = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), "stage_seed": 3, **options}
    return PipelinedModule(stages, late, strategy, **options)


def noise(shape=(12,), size=40, batch=8, classes=4, dtype=torch.float32, **options):
    """A loader of noise with classes, always the same."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(size, *shape, generator=generator).to(dtype)
    return DataLoader(TensorDataset(x, torch.randint(classes, (size,), generator=generator)), batch, **options)


def trainer(strategy, callbacks=(), folder=None, **options):
    """A quiet ``Trainer`` of three epochs on the CPU that keeps every epoch's checkpoint in ``folder``, if any."""
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    keep = [ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)] if folder else []
    quiet = {"logger": False, "enable_checkpointing": bool(keep), "enable_progress_bar": False, "max_epochs": 3}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", **options}
    return pl.Trainer(strategy=strategy or "auto", devices=1, callbacks=[*callbacks, *keep], **quiet)


class Rows(pl.Callback):
    """Everything that was logged and the number of updates, after every validation and every epoch, and at the end."""

    def __init__(self):
        self.rows = []

    def on_validation_end(self, trainer, pl_module):
        logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.rows.append({"step": trainer.global_step, **logged})

    on_train_epoch_end = on_train_end = on_validation_end


class ByDevice(PipelineStrategy):
    """Sends as between GPUs, with gloo in the place of NCCL."""

    def endpoint(self):
        return replace(super().endpoint(), backend="gloo")


class ByGloo(PipelineStrategy):
    """Sends by gloo, as between hosts, where neighbours could share memory."""

    def endpoint(self):
        return replace(super().endpoint(), shares=False)


def run(work, strategy=None):
    """What ``work(strategy)`` returns: all that every process must know, and the weights and buffers of its module."""
    torch.manual_seed(0)
    known, module = work(strategy)
    return known, {name: value.cpu().clone() for name, value in module.state_dict().items()}


def in_process(work, timeout_s=60, strategy=PipelineStrategy, **options):
    """The same in this process's place in the pipeline."""
    return run(work, strategy(timeout_s=timeout_s, **options))


def merged(found):
    """The weights of all processes; each has its own stages only."""
    weights = {name: value for _, own in found for name, value in own.items()}
    assert sum(len(own) for _, own in found) == len(weights)
    return weights


def assert_equal(work, world, **options):
    """``work`` by ``world`` processes is what it is by the simulator, bit for bit."""
    assert_all_equal({"the only one": (work, options)}, world)


def assert_all_equal(rows, world):
    """The same of works, by the same processes: name -> work, or a pair of it and settings of the strategy."""
    rows = {name: row if isinstance(row, tuple) else (row, {}) for name, row in rows.items()}
    found = processes.run(one_by_one, world, rows, timeout=120 * len(rows))
    for name, own in zip(rows, zip(*found, strict=True), strict=True):
        known, weights = run(rows[name][0])
        assert [other for other, _ in own] == [known] * world, name
        assert_same_weights(merged(own), weights)


def one_by_one(rows):
    """What this process finds in each."""
    found = []
    for name, (work, options) in rows.items():
        try:
            found.append(in_process(work, **options))
        except BaseException as error:
            error.add_note(name)
            raise
    return found


def resumed_equals_whole(folder, work, before=2, after=4, epoch=1, last=1, saved=None, **options):
    """``work``, taken up after ``epoch`` by ``after`` processes, ends as it does with ``before``, which saved it.

    Args:
        folder: of the checkpoints.
        work: makes it with the arguments ``folder`` and ``resume``.
        last: how many rows of what was logged must be equal, besides the weights.
        saved: settings of the strategy that saves; ``options`` are those of the other one.
    """
    whole = processes.run(in_process, before, work(folder=folder), **(saved or {}))
    again = processes.run(in_process, after, work(folder=folder, resume=folder / f"epoch={epoch}.ckpt"), **options)
    assert again[0][0][-last:] == whole[0][0][-last:]
    assert_same_weights(merged(again), merged(whole))


def assert_same_weights(found, expected):
    assert sorted(found) == sorted(expected)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def fit(make, callbacks=list, data=noise, validation=None, resume=None, **options):
    """Work: trains ``make()`` on noise, with options of the ``Trainer``."""

    def work(strategy):
        rows, module = Rows(), make()
        one = trainer(strategy, [rows, *callbacks()], **options)
        one.fit(module, data(), (validation or data)(), ckpt_path=resume)
        return rows.rows, module

    return work


def images():
    """Four stages with BatchNorm, dropout and a stage without parameters that train."""
    return [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU()),
        nn.Sequential(nn.Linear(24, 24), nn.Dropout(0.2), nn.ReLU()),
        nn.Sequential(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.1)),
        nn.Linear(24, 5),
    ]


def transformer():
    """Embedding, attention with LayerNorm, head: a sequence of 8 tokens made of the image's rows."""
    embedding, head = nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 16)), nn.Sequential(nn.Flatten(), nn.Linear(128, 5))
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
    return [embedding, block, nn.LayerNorm(16), head]


def spiking(name, **settings):
    """A spiking network of 5 or 4 stages, whose settings aren't the default."""
    size = {"input_shape": (1, 8, 8), "num_classes": 5, "width": 8 if name == "spiking-mlp" else 4}
    return partition(networks.build(name, **size, spiking=settings | {"time_steps": 3, "seed": 11}), 2)


def loaders(dtype=torch.float32):
    """Training and validation data for these networks."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (44, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = TensorSplit(x, torch.randint(5, (44,), generator=generator))
    common = {"mean": (0.5,), "std": (0.3,), "seed": 3, "dtype": dtype}
    return BatchLoader(split, 8, shuffle=True, drop_last=True, **common), BatchLoader(split, 32, **common)


NETWORKS = {
    "dense": images,
    "residual": lambda: partition(networks.build("resnet-small", input_shape=(1, 8, 8), num_classes=5, width=4), 2),
    "transformer": transformer,
    **{
        name: partial(spiking, name, **settings)
        for name, settings in (
            ("spiking-mlp", {"coding": "rate", "synapse_decay": 0.3}),
            ("spiking-cnn", {"coding": "latency", "reset": "zero", "readout": "rate"}),
            ("spiking-resnet", {"surrogate": "arctan", "reset": "none"}),
        )
    },
}
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "small steps": lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def decay(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))


@dataclass(frozen=True)
class Case:
    """Work: a training of three epochs of five mini-batches, on noise with classes."""

    strategy: str = "ema-window"
    convention: str = "layerpipe2"
    delays: tuple[int, ...] = ()
    network: str = "dense"
    dtype: torch.dtype = torch.float32
    optimizer: str = "momentum"
    clip: float | None = None
    drain: bool = False
    epochs: int = 3
    folder: Path | None = None
    resume: Path | None = None
    fault: str = ""  # KIND@RANK, in the second mini-batch of the second epoch
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, strategy=None):
        stages = [stage.to(self.dtype) for stage in NETWORKS[self.network]()]
        how = {"optimizer": OPTIMIZERS[self.optimizer], "scheduler": decay, "scheduler_interval": "step"}
        how |= {"gradient_clip_norm": self.clip, "drain": self.drain, "stage_seed": 7}
        module = pipelined(stages, self.strategy, self.delays, self.convention, **how)
        rows, folder = Rows(), self.folder or (self.resume and self.resume.parent)
        made = trainer(strategy, [rows, Fault(self.fault)], folder, max_epochs=self.epochs, **self.options)
        made.fit(module, *loaders(self.dtype), ckpt_path=self.resume)
        return rows.rows, module


class Fault(pl.Callback):
    """Does to one process what ``Case.fault`` says."""

    def __init__(self, fault):
        self.kind, _, self.rank = fault.partition("@")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        here = (trainer.current_epoch, batch_idx, str(trainer.global_rank)) == (1, 1, self.rank)
        if here and self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if here and self.kind == "nan":
            for optimizer in trainer.optimizers:
                optimizer.param_groups[0]["lr"] = float("nan")
        if here and self.kind == "bug":
            raise ZeroDivisionError("a bug")
        while here and self.kind == "hang":
            pass


def stage_alone(stage: nn.Module, index: int, delay: int, strategy: str, optimizer, **options) -> InFlight:
    """A stage with its passes, as a process has it, driven by the test."""
    step, each = torch.zeros(1, dtype=torch.int64), options.pop("accumulate", 1)
    placed = Stage(stage, index, delay, make_strategy(strategy), step, ahead=True, seed=0, accumulate=each)
    return InFlight(placed, optimizer, **options)
