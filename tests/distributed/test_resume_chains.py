"""Runs resumed more than once, from a shorter run's end, by other numbers of processes, with numpy's learning rates."""

import warnings

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from layerpipe2 import make_history
from layerpipe2.distributed.strategy import PipelineStrategy
from layerpipe2.history import StashFirst
from tests.distributed import processes
from tests.distributed.fits import Rows, dense, noise, pipelined, trainer


@pytest.mark.parametrize(
    ("history", "size"),  # epochs of five mini-batches, or shorter than the delay
    [
        (make_history("ema-span"), 40),
        (StashFirst(then=make_history("ema-span"), updates=8), 16),
        (make_history("latest"), 8),
    ],
)
def test_a_resumed_run_is_resumed(history, size, tmp_path):
    whole = processes.run(_train, 2, tmp_path / "whole", history, size, 7)
    processes.run(_train, 2, tmp_path / "a", history, size, 3)  # ends with an empty pipeline
    processes.run(_train, 3, tmp_path / "b", history, size, 5, tmp_path / "a" / "epoch=2.ckpt")
    found = processes.run(_train, 1, tmp_path / "c", history, size, 7, tmp_path / "b" / "epoch=3.ckpt")
    assert found[0][0][-4:] == whole[0][0][-4:]
    weights = {name: value for _, own in whole for name, value in own.items()}
    assert sorted(weights) == sorted(found[0][1])
    assert all(torch.equal(found[0][1][name], value) for name, value in weights.items())


def _train(folder, history, size, epochs, resume=None):
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    torch.manual_seed(0)
    rate = lambda step: 0.5 * (1 + np.cos(step / 9))  # noqa: E731
    module = pipelined(
        dense(), scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, rate), scheduler_interval="step"
    )
    module.history = history
    rows, keep = Rows(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    one = trainer(PipelineStrategy(timeout_s=20), callbacks=[rows, keep], enable_checkpointing=True, max_epochs=epochs)
    one.fit(module, noise(size=size), noise(size=size), ckpt_path=resume)
    return rows.rows, module.state_dict()
