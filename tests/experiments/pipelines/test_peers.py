"""In the benchmark torch's peers train what one process trains; the asynchronous pipeline, what the simulator does."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.pipelines.processes import run_ranks
from layerpipe2 import Delays, make_strategy, partition
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.planning.variants import DATA_PARALLEL
from tests.experiments.pipelines import peer_work

PEERS = [f"{name}/{m}" for name in ("gpipe", "1f1b", "interleaved", "zero-bubble", "zero-bubble-v") for m in (2, 4)]
STRATEGIES = ["stash", "latest", "ema-window"]


@functools.cache
def trained():
    variants = [*PEERS, *DATA_PARALLEL, *(f"async/{strategy}" for strategy in STRATEGIES)]
    return run_ranks(peer_work.train, 2, variants, timeout=60)


@functools.cache
def plain():
    """Losses and units of training with whole mini-batches in one process."""
    layers = peer_work.units()
    network = nn.Sequential(*layers)
    optimizer, losses = peer_work.make_optimizer(network.parameters()), []
    for x, y in peer_work.batches():
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, layers


@pytest.mark.parametrize("peer", PEERS)
def test_weights_and_losses_equal_plain_training(peer):
    losses, layers = plain()
    found = [rank[peer] for rank in trained()]
    per_rank = 1 if peer.startswith(("gpipe", "1f1b", "zero-bubble/")) else 2
    two = [[0, 3], [1, 2]] if "-v" in peer else [[0, 2], [1, 3]]
    assert [sorted(weights) for _, weights, _ in found] == {1: [[0], [1]], 2: two}[per_rank]
    (known,) = (values for values, _, _ in found if values)
    assert known == pytest.approx(losses, rel=1e-12)
    stages = partition(layers, 4 // per_rank)
    for _, weights, _ in found:
        for k, values in weights.items():
            for ours, theirs in zip(values, stages[k].parameters(), strict=True):
                torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("peer", DATA_PARALLEL)
def test_data_parallel_training_is_that_of_one_process_with_the_whole_mini_batch(peer):
    losses, layers = plain()
    found = [rank[peer] for rank in trained()]
    assert [sum(parts) / 2 for parts in zip(*(rank[0] for rank in found), strict=True)] == pytest.approx(losses, 1e-12)
    assert found[0][0] != found[1][0]  # of halves
    for _, weights, _ in found:
        for ours, theirs in zip(weights[0], nn.Sequential(*layers).parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)
    size = sum(p.nbytes for layer in layers for p in layer.parameters())
    assert [rank[2] for rank in found] == [{"ddp": size, "fsdp": 3 * size // 2}[peer]] * 2


def test_the_training_moves_the_weights():
    for layer, before in zip(plain()[1], peer_work.units(), strict=True):
        assert any((p - q).abs().max() > 1e-4 for p, q in zip(layer.parameters(), before.parameters(), strict=True))


def test_sent_bytes_are_activations_and_gradients_of_the_boundaries():
    boundary = peer_work.BATCH * 6 * 8
    sent = {peer: [rank[peer][2] for rank in trained()] for peer in PEERS}
    assert sent["gpipe/2"] == sent["1f1b/4"] == sent["zero-bubble/4"] == [boundary, boundary]
    assert sent["interleaved/2"] == [3 * boundary] * 2
    assert sent["zero-bubble-v/2"] == [2 * boundary] * 2  # the turn of the V stays on its rank


def test_outputs_may_lie_in_memory_as_they_like():
    found = run_ranks(peer_work.losses_by_columns, 2, PEERS, timeout=60)
    for peer in PEERS:
        (known,) = (rank[peer] for rank in found if rank[peer])
        assert known == pytest.approx(plain()[0], rel=1e-12)


def test_batch_normalisation_counts_training_batches_only():
    first, second = run_ranks(peer_work.statistics_after, 2, "gpipe/2", 3, timeout=60)
    assert second == {1: {}}
    assert first[0]["0.2.num_batches_tracked"] == 3 * 2


def test_what_does_not_fit_is_named():
    lines = run_ranks(peer_work.refusals, 2, timeout=60)
    assert lines[0] == lines[1]
    assert len(lines[0]) == 5
    assert "unknown synchronous pipeline 'gpip'; choose one of gpipe, 1f1b, " in lines[0][0]
    assert lines[0][1] == "gpipe on 2 processes needs 2 stages, not 4"
    assert "cannot make 3 micro-batches of 8 samples; give at least 1, and a batch size that is" in lines[0][2]
    assert "1f1b on 2 processes cannot make 1 micro-batches of 8 samples; give at least 2" in lines[0][3]
    assert lines[0][4] == "2 processes cannot share 3 samples evenly; give a batch size that is a multiple"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_and_weights_of_the_asynchronous_one_are_the_simulators(strategy):
    layers = peer_work.units()
    stages = partition(layers, 4)
    engine = PipelineEngine(stages, Delays.layerpipe2(2), make_strategy(strategy))
    optimizer = peer_work.make_optimizer(p for stage in stages for p in stage.parameters())
    losses = [float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]) for x, y in peer_work.batches()]
    first, second = (rank[f"async/{strategy}"] for rank in trained())
    assert first[0] == []
    assert second[0] == pytest.approx([sum(losses) / len(losses)], rel=1e-12)
    for k, weights in (first[1] | second[1]).items():
        for ours, theirs in zip(weights, stages[k].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_strategies_differ_and_send_the_same():
    stash, latest, average = (trained()[0][f"async/{strategy}"] for strategy in STRATEGIES)
    assert not torch.equal(stash[1][0][0], latest[1][0][0])
    assert not torch.equal(average[1][0][0], latest[1][0][0])
    assert stash[2] == latest[2] == average[2] >= peer_work.BATCH * 6 * 8
