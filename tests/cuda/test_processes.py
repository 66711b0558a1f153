"""Several processes on GPUs train as the simulator does on one, within rounding.

With fewer GPUs than processes messages pass the host's memory; with as many they go by NCCL. The same tests cover both,
and ``--junit-xml`` records which it was.
"""

import multiprocessing
import os
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from layerpipe2.pipeline.devices import transport_of
from layerpipe2.pipeline.strategy import PipelineStrategy
from layerpipe2.pipeline.timeline import SpanRecorder
from tests.pipeline import fits, processes
from tests.pipeline.fits import Case, in_process

SPAWN = multiprocessing.get_context("spawn")  # CUDA can't be used in forked processes
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
ACCELERATOR = "gpu"
OPTIONS = {"accelerator": ACCELERATOR}


@pytest.mark.parametrize(
    "case",
    [
        *(Case(strategy, options=OPTIONS) for strategy in ("stash", "latest", "ema-window", "ema-span-raw", "pair")),
        Case("ema-span", "pipedream", options=OPTIONS),
        Case("ema-lsq", network="transformer", options=OPTIONS),
        Case("stash", network="residual", options=OPTIONS),
        Case(drain=True, clip=0.1, optimizer="adamw", options=OPTIONS),
    ],
    ids=str,
)
def test_equals_the_simulator(case, record_property):
    rows, weights = fits.run(case)
    found = processes.run(in_process, 2, case, context=SPAWN)
    record_property("transport", processes.run(_place, 2, context=SPAWN)[0][-1])
    for own_rows, _ in found:
        for row, expected in zip(own_rows, rows, strict=True):
            assert row["step"] == expected["step"]
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert_close(weights, found)


def test_devices_are_dealt_out():
    gpus = torch.cuda.device_count()
    found = processes.run(_place, 2, context=SPAWN)
    assert [place[:2] for place in found] == [("cuda", rank % gpus) for rank in range(2)]
    assert {place[-1] for place in found} == {"nccl" if gpus >= 2 else "gloo"}


def test_resume(tmp_path):
    whole = processes.run(in_process, 2, Case(folder=tmp_path, options=OPTIONS), context=SPAWN)
    again = Case(resume=tmp_path / "epoch=0.ckpt", options=OPTIONS)
    found = processes.run(in_process, 2, again, context=SPAWN)
    assert_close(fits.merged(whole), found)


def test_what_is_not_finite_ends_all():
    for work in (Case(fault="nan@0", options=OPTIONS), nan_at_the_end):
        with pytest.raises(AssertionError, match="diverged at mini-batch"):
            processes.run(in_process, 2, work, context=SPAWN)


def test_transfers_that_wait_on_the_gpu_for_their_counterpart():
    """Too large for NCCL's own buffers; validation makes its links while training is under way; nobody knew the end."""
    assert_close(fits.run(large)[1], processes.run(in_process, 2, large, context=SPAWN))


def test_recurrent_layers_get_recalled_weights():
    assert_close(fits.run(recurrent)[1], processes.run(in_process, 2, recurrent, context=SPAWN))


def test_spans_are_in_order():
    for events in processes.run(_events, 2, context=SPAWN)[0]:
        assert {event.what for event in events} >= {"forward", "backward", "weights"}
        assert all(before.stop <= after.start for before, after in pairwise(events))


def assert_close(weights, found):
    parts = fits.merged(found)
    assert sorted(parts) == sorted(weights)
    for name, value in weights.items():
        torch.testing.assert_close(parts[name], value, **TOLERANCE)


class Copies(nn.Module):
    """A message of 64 MB."""

    def forward(self, x):
        return x.repeat(1, 2**24 // x.numel())


class Mean(nn.Module):
    """Back to the 16 features that were copied."""

    def forward(self, x):
        return x.view(len(x), -1, 16).mean(1)


class StopEarly(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


class NanAtTheEnd(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 2 and batch_idx == 4:
            next(pl_module.parameters()).data.fill_(float("nan"))


def large(strategy):
    stages = [nn.Sequential(nn.Linear(12, 16), nn.Tanh(), Copies()), nn.Sequential(Mean(), nn.Linear(16, 4))]
    module = fits.pipelined(stages, "ema-span", delays=(5, 0))
    options = {"accelerator": ACCELERATOR, "num_sanity_val_steps": 0, "max_epochs": 5}
    fits.trainer(strategy, [StopEarly()], **options).fit(module, fits.noise(), fits.noise())
    return None, module


def nan_at_the_end(strategy):
    module = fits.pipelined(fits.dense())
    options = {"accelerator": ACCELERATOR, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    fits.trainer(strategy, [NanAtTheEnd()], **options).fit(module, fits.noise())
    return None, module


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(12, 16, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


def recurrent(strategy):
    module = fits.pipelined([Last(), nn.Sequential(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 4)], "ema-span")
    fits.trainer(strategy, accelerator=ACCELERATOR).fit(module, fits.noise((5, 12)), fits.noise((5, 12)))
    return None, module


def _place():
    strategy = PipelineStrategy(timeout_s=60)
    Case(options=OPTIONS)(strategy)
    device = strategy.root_device
    return device.type, device.index, os.environ["LOCAL_WORLD_SIZE"], transport_of(device)


def _events():
    strategy = PipelineStrategy(timeout_s=60, timeline=SpanRecorder())
    Case(options=OPTIONS)(strategy)
    return strategy.events
