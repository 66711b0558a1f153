"""One training, run by the simulator or by several processes, that shows everything that must be equal."""

import os
import signal
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from layerpipe2 import Delays, PipelinedModule, make_history, networks, partition
from layerpipe2.data import BatchLoader, TensorSplit
from layerpipe2.distributed.strategy import PipelineStrategy


@dataclass(frozen=True)
class Case:
    """A training of three epochs of five mini-batches, on noise with classes."""

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


def dense():
    """Four stages with BatchNorm, dropout and a stage without parameters that train."""
    return [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU()),
        nn.Sequential(nn.Linear(24, 24), nn.Dropout(0.2), nn.ReLU()),
        nn.Sequential(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.1)),
        nn.Linear(24, 5),
    ]


def residual():
    return partition(networks.build("resnet-small", input_shape=(1, 8, 8), num_classes=5, width=4), 2)


def transformer():
    """Embedding, attention with LayerNorm, head: a sequence of 8 tokens made of the image's rows."""
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
    head = nn.Sequential(nn.Flatten(), nn.Linear(128, 5))
    return [nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 16)), block, nn.LayerNorm(16), head]


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


class Metrics(pl.Callback):
    """Everything logged, after every epoch and at the end."""

    def __init__(self):
        self.rows = []

    def on_validation_end(self, trainer, pl_module):
        self._take(trainer)

    def on_train_end(self, trainer, pl_module):
        self._take(trainer)

    def _take(self, trainer):
        self.rows.append({name: value.item() for name, value in trainer.callback_metrics.items()})


class Fault(pl.Callback):
    """Does to one process what ``case.fault`` says."""

    def __init__(self, fault):
        self.kind, _, self.rank = fault.partition("@")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx, str(trainer.global_rank)) != (1, 1, self.rank):
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "nan":
            next(pl_module.parameters()).data.fill_(float("nan"))
        if self.kind == "bug":
            raise ZeroDivisionError("a bug")
        while self.kind == "hang":
            pass


def train(case: Case, strategy: PipelineStrategy | None = None) -> tuple[list, dict, int]:
    """Metrics of every epoch, the weights and buffers at the end, the number of updates."""
    torch.manual_seed(0)
    stages = [stage.to(case.dtype) for stage in globals()[case.network]()]
    delays = Delays.custom(case.delays) if case.delays else Delays.by_law(case.convention, len(stages))
    module = PipelinedModule(
        stages,
        delays,
        make_history(case.strategy),
        optimizer=OPTIMIZERS[case.optimizer],
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step)),
        scheduler_interval="step",
        gradient_clip_norm=case.clip,
        drain=case.drain,
        stage_seed=7,
    )
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    metrics = Metrics()
    folder = case.folder or (case.resume and case.resume.parent)
    keep = [ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)] if folder else []
    trainer = pl.Trainer(
        strategy=strategy or "auto", callbacks=[metrics, *keep, Fault(case.fault)], max_epochs=case.epochs,
        devices=1, logger=False, enable_checkpointing=bool(keep), enable_progress_bar=False, enable_model_summary=False,
        **{"accelerator": "cpu", **case.options},
    )  # fmt: skip
    trainer.fit(module, *loaders(case.dtype), ckpt_path=case.resume)
    return metrics.rows, {name: value.cpu().clone() for name, value in module.state_dict().items()}, trainer.global_step


def in_process(case: Case, timeout_s: float = 60, **options) -> tuple[list, dict, int]:
    """The same in this process's place in the pipeline."""
    return train(case, PipelineStrategy(timeout_s=timeout_s, **options))


def loaders(dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (44, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = TensorSplit(x, torch.randint(5, (44,), generator=generator))
    common = {"mean": (0.5,), "std": (0.3,), "seed": 3, "dtype": dtype}
    return BatchLoader(split, 8, shuffle=True, drop_last=True, **common), BatchLoader(split, 32, **common)
