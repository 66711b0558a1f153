"""The asynchronous pipeline in the benchmark trains what the simulator trains."""

import functools

import pytest
import torch
import torch.nn.functional as F

from experiments.pipelines.processes import run_ranks
from layerpipe2 import Delays, make_history, partition
from layerpipe2.engine.step import PipelineEngine
from tests.experiments.pipelines import peer_work

STRATEGIES = ["stash", "latest", "ema-window"]


@functools.cache
def trained():
    return run_ranks(peer_work.train_asynchronously, 2, STRATEGIES, timeout=60)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_and_weights_are_the_simulators(strategy):
    layers = peer_work.units()
    stages = partition(layers, 4)
    engine = PipelineEngine(stages, Delays.layerpipe2(2), make_history(strategy))
    optimizer = peer_work.make_optimizer(p for stage in stages for p in stage.parameters())
    losses = [float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]) for x, y in peer_work.batches()]
    first, second = (rank[strategy] for rank in trained())
    assert first[0] == []
    assert second[0] == pytest.approx([sum(losses) / len(losses)], rel=1e-12)
    for k, weights in (first[1] | second[1]).items():
        for ours, theirs in zip(weights, stages[k].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_strategies_differ_and_send_the_same():
    stash, latest, average = (trained()[0][strategy] for strategy in STRATEGIES)
    assert not torch.equal(stash[1][0][0], latest[1][0][0])
    assert not torch.equal(average[1][0][0], latest[1][0][0])
    assert stash[2] == latest[2] == average[2] >= peer_work.BATCH * 6 * 8
