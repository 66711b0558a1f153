"""Training to be tested: an engine with three stages on noise, and a module of convolutions under a Trainer."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import Delays, PipelinedModule, make_strategy, partition
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import Strategy

MIDDLE = Delays.custom([2, 1, 0])
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}
# A resumed run saves into the folder of the run that it continues.
resumes = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")


def made(strategy: str | Strategy) -> Strategy:
    return make_strategy(strategy) if isinstance(strategy, str) else strategy


def engine(middle: nn.Module, strategy: str | Strategy = "latest", delays=MIDDLE, **options) -> PipelineEngine:
    """``middle`` as the second of three stages."""
    torch.manual_seed(3)
    return PipelineEngine([nn.Linear(8, 8), middle, nn.Linear(8, 8)], delays, made(strategy), **options)


def optimizer_of(pipeline: PipelineEngine, **options) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for s in pipeline.stages for p in s.parameters()], **{"lr": 0.1} | options)


def load(pipeline: PipelineEngine) -> PipelineEngine:
    """Give every stage the weights of the next forward pass."""
    pipeline.begin()
    return pipeline


def train(pipeline: PipelineEngine, steps: int = 1, optimizer=None) -> list[float]:
    optimizer = optimizer or optimizer_of(pipeline)
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(steps):
        x = torch.randn(4, 8, generator=generator)
        losses.append(float(pipeline.train_step(x, torch.tensor([1, 2, 3, 4]), F.cross_entropy, optimizer)[0]))
    return losses


def network() -> list[nn.Module]:
    def unit(c: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))

    return [unit(1), unit(4), unit(4), nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 5))]


def data(shuffle: bool = True) -> DataLoader:
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(48, 1, 8, 8, generator=generator), torch.randint(5, (48,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle)


def step_schedule(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def module(
    strategy: str | Strategy, delays=None, group_size: int = 1, optimizer: str = "sgd", **options
) -> PipelinedModule:
    torch.manual_seed(3)
    stages = partition(network(), group_size)
    delays = delays or Delays.layerpipe2(len(stages))
    options = {"scheduler": step_schedule} | options
    return PipelinedModule(stages, delays, made(strategy), optimizer=OPTIMIZERS[optimizer], **options)


def trainer(epochs: int, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in options.get("callbacks", ()))
    quiet |= {"enable_checkpointing": saves, "num_sanity_val_steps": 0}
    return pl.Trainer(max_epochs=epochs, **(quiet | options))


def fit(model: pl.LightningModule, epochs: int, ckpt_path=None, seed: int = 5, **options) -> pl.LightningModule:
    torch.manual_seed(seed)
    trainer(epochs, **options).fit(model, data(), data(shuffle=False), ckpt_path=ckpt_path)
    return model


def checkpoint(folder: Path, model: pl.LightningModule, epochs: int, **options) -> str:
    """The last checkpoint of a run; ``options`` say when there is one."""
    others = options.pop("callbacks", [])
    save = ModelCheckpoint(folder, save_last=True, **options)
    fit(model, epochs, callbacks=[*others, save])
    return save.last_model_path


def resume(path: str, model: pl.LightningModule, epochs: int, **options) -> pl.LightningModule:
    """The run of a checkpoint goes on, with other random numbers where the checkpoint does not bring its own."""
    others = options.pop("callbacks", [])
    continued = ModelCheckpoint(Path(path).parent, save_last=True, **options)
    return fit(model, epochs, ckpt_path=path, seed=99, callbacks=[*others, continued])


def assert_bit_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
