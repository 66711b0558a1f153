"""What the processes really hold is what the cost model says."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from layerpipe2 import Delays, PipelinedModule, make_history
from layerpipe2.distributed.memory import memory_table
from layerpipe2.distributed.strategy import PipelineStrategy
from layerpipe2.planning.costs import stage_costs
from tests.distributed import processes
from tests.distributed.training import loaders

PADDING = 64 * 4  # bytes per parameter and copy, at most


def network():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU())
    return [first, nn.Sequential(nn.Linear(256, 256), nn.ReLU()), nn.Sequential(nn.Linear(256, 256), nn.Tanh()),
            nn.Linear(256, 5)]  # fmt: skip


def memory_of(strategy, convention, **options):
    """Memory of the stages after 15 updates of 8 samples."""
    delays = Delays.by_law(convention, 4)
    module = PipelinedModule(
        network(), delays, make_history(strategy), optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)
    )
    pipeline = PipelineStrategy(**options)
    trainer = pl.Trainer(
        strategy=pipeline, max_epochs=3, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, *loaders(torch.float32))
    return pipeline.memory


@pytest.mark.parametrize("convention", ["layerpipe2", "pipedream"])
@pytest.mark.parametrize("strategy", ["stash", "latest", "ema-window"])
def test_the_cost_model_tells_what_the_processes_hold(strategy, convention):
    rows = processes.run(memory_of, 4, strategy, convention)[0]
    model = stage_costs(network(), (1, 8, 8), strategy, convention, batch_size=8)
    assert [row.parameters for row in rows] == list(model.parameter_bytes)
    assert [row.optimizer for row in rows] == list(model.parameter_bytes)
    assert [row.activations for row in rows] == list(model.activation_bytes)
    for row, history, stage in zip(rows, model.history_bytes, network(), strict=True):
        copies = make_history(strategy).copies(row.delay)
        most = history + copies * len(list(stage.parameters())) * PADDING + 64 * (row.delay + 1)  # the decays' table
        assert history <= row.history <= most


def test_every_process_knows_and_the_table_says():
    found = processes.run(memory_of, 2, "ema-window", "layerpipe2")
    assert found[0] == found[1]
    assert [(row.stage, row.rank, row.delay) for row in found[0]] == [(0, 0, 6), (1, 0, 4), (2, 1, 2), (3, 1, 0)]
    lines = memory_table(found[0]).splitlines()
    assert lines[0].split() == ["stage", "rank", "delay", "parameters", "optimizer", "activations", "history",
                                "checkpoint", "(kB)"]  # fmt: skip
    assert lines[-1].split()[1] == f"{sum(row.parameters for row in found[0]) / 1e3:.1f}"


@pytest.mark.parametrize(("resumable", "copies"), [(False, 0), (True, 1)])
def test_versions_are_kept_for_a_checkpoint_only(resumable, copies):
    for row in processes.run(memory_of, 2, "latest", "layerpipe2", resumable=resumable)[0]:
        weights = row.delay * row.parameters * copies
        assert weights <= row.checkpoint <= weights + copies * row.delay * 4 * PADDING
