"""The small training on which this machine is checked, as the engine runs it: in one process, as a graph, in two.

As a script (``python -m layerpipe2.checks.trainings FOLDER cpu``) it is one of two processes.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerpipe2.checks.reference import Batch, Trace, make_optimizer, plain, snapshot
from layerpipe2.delays import Delays
from layerpipe2.engine.cuda_graph import CapturedStep
from layerpipe2.engine.module import PipelinedModule
from layerpipe2.engine.quiet_trainer import running_lightning
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.lightning import pl
from layerpipe2.pipeline.strategy import PipelineStrategy
from layerpipe2.strategies import OptimizerView, State, Strategy, chain, make_strategy

CPU, SINGLE = torch.device("cpu"), torch.float32
DELAYS, STEPS = (6, 4, 2, 0), 20
"""Of the stages, and mini-batches: more than the longest delay takes to fill."""
_SAID = re.compile(r"\[rank \d+\] (layerpipe2: error: .+|[\w.]*(?:Error|Exception|Lost)\b.*)")


@dataclass(frozen=True)
class _Ahead(Strategy):  # forward passes read where the newest update leads if it is repeated until the backward pass
    def init(self, weights: Tensor, delay: int) -> State:
        return {"newest": torch.zeros_like(weights), "times": weights.new_full((1,), delay)}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        return latest - state["times"] * state["newest"]

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        state["newest"].copy_(before - after)
        return after


@dataclass(frozen=True)
class _Compensated(Strategy):  # a diagonal of squared gradients in the place of second derivatives
    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        return gradient + gradient * gradient * (latest - used)


STRATEGIES = {name: make_strategy(name) for name in ("stash", "latest", "ema-window", "pair")}
STRATEGIES["chain"] = chain(_Ahead(), make_strategy("ema-window"), _Compensated())
"""By name; ``chain`` acts in all four places."""


def network(dtype: torch.dtype = SINGLE, device: torch.device = CPU) -> list[nn.Sequential]:
    """Return four stages, the same weights on all devices. Nothing jumps (ReLU), so that rounding remains rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(2, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.Tanh())
        second = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Tanh())
        third, last = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 4))
    return [stage.to(device, dtype) for stage in (first, second, third, last)]


def batches(dtype: torch.dtype = SINGLE, device: torch.device = CPU) -> list[Batch]:
    """Return noise (8, 2, 6, 6) with classes (8,)."""
    made, generator = [], torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(8, 2, 6, 6, generator=generator), torch.randint(4, (8,), generator=generator)
        made.append((x.to(device, dtype), y.to(device)))
    return made


class _Noting(pl.Callback):
    def __init__(self) -> None:
        self.trace: Trace = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        self.trace.append(snapshot(pl_module.stages))  # type: ignore[arg-type]


def _fit(
    device: torch.device,
    rule: str = "ema-window",
    delays: Any = DELAYS,
    dtype: torch.dtype = SINGLE,
    precision: Any = "native",
    resume: Path | None = None,
    **options: Any,
) -> PipelinedModule:
    """Train quietly, with options of the ``Trainer``; ``resume`` is a checkpoint."""
    module = PipelinedModule(network(dtype), delays, STRATEGIES[rule], optimizer=make_optimizer, precision=precision)
    logging.getLogger(pl.__name__).setLevel(logging.WARNING)
    place = {"accelerator": "gpu", "devices": [device.index]} if device.type == "cuda" else {"accelerator": "cpu"}
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    with running_lightning(".*no `val_dataloader`", ".*many workers", ".*when using `ckpt_path`", "GPU available but"):
        trainer = pl.Trainer(**{**quiet, "max_epochs": 1, "devices": 1, **place, **options})
        trainer.fit(module, DataLoader(batches(dtype), batch_size=None), ckpt_path=resume)  # type: ignore[arg-type]
    return module


def simulated(device: torch.device, **options: Any) -> Trace:
    """Return the trace of the simulation in this process."""
    noting = _Noting()
    _fit(device, callbacks=[noting], **options)
    return noting.trace


def undelayed(device: torch.device) -> tuple[Trace, Trace]:
    """Train without delays, and by ordinary PyTorch."""
    return simulated(device, delays=[0] * len(DELAYS)), plain(network(SINGLE, device), batches(SINGLE, device))


def resumed(device: torch.device) -> tuple[Trace, Trace]:
    """Train for two epochs: resumed behind the first one, and without a stop."""
    whole, second = _Noting(), _Noting()
    with TemporaryDirectory() as folder:
        saving = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        _fit(device, callbacks=[whole, saving], max_epochs=2, enable_checkpointing=True)
        _fit(device, callbacks=[second], max_epochs=2, resume=Path(folder, "epoch=0.ckpt"))
    return whole.trace[:STEPS] + second.trace, whole.trace


def captured(device: torch.device) -> tuple[Trace, Trace]:
    """Train as a CUDA graph, and with the same settings step by step."""
    traces: tuple[Trace, Trace] = ([], [])
    for trace in traces:
        with torch.cuda.device(device):
            stages = network(SINGLE, device)
            engine = PipelineEngine(stages, Delays.custom(DELAYS), STRATEGIES["ema-window"])
            optimizer = make_optimizer([p for stage in stages for p in stage.parameters()], fused=True)
            step = CapturedStep(engine, F.cross_entropy, optimizer)
            for x, y in batches(SINGLE, device):
                _ = step(x, y) if trace is traces[0] else engine.train_step(x, y, F.cross_entropy, optimizer)
                trace.append(snapshot(stages))
    return traces


def two_processes(gpus: Sequence[int], timeout_s: float) -> list[Tensor]:
    """Train by ``layerpipe2 launch``, on these GPUs or on CPUs; return what every stage holds at the end.

    Raises:
        RuntimeError: with the line that says why, if they failed.
        subprocess.TimeoutExpired: if they took longer; they have ended.
    """
    environment = dict(os.environ)
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[i] for i in gpus)
    with TemporaryDirectory() as folder:
        script = ["-m", __name__, folder, "cuda:0" if gpus else "cpu"]
        command = [sys.executable, "-m", "layerpipe2", "launch", "--processes", "2", "--threads", "1", "--", *script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode:
            said = _SAID.search(done.stderr)
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}, without a message"]
            raise RuntimeError(said[1] if said else lines[-1])
        parts = [torch.load(Path(folder, rank), weights_only=True) for rank in ("0", "1")]
    return [values for _, values in sorted((parts[0] | parts[1]).items())]


def repeatable_arithmetic() -> None:
    """Compute with one thread from now on, without TF32, with kernels of cuDNN that always give the same bits."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


if __name__ == "__main__":
    repeatable_arithmetic()
    stages: Any = _fit(torch.device(sys.argv[2]), strategy=PipelineStrategy(timeout_s=45)).stages
    mine = dict(zip(stages, snapshot(stages.values()), strict=True))
    torch.save(mine, Path(sys.argv[1], os.environ["RANK"]))
