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
PLACES = {"interleaved": [[0, 2], [1, 3]], "zero-bubble-v": [[0, 3], [1, 2]], "ddp": [[0], [0]], "fsdp": [[0], [0]]}
"""Kind -> stages of both ranks, where they aren't the first on the first and the second on the second."""


@functools.cache
def trained():
    variants = [*PEERS, *DATA_PARALLEL, *(f"async/{strategy}" for strategy in STRATEGIES)]
    return run_ranks(peer_work.train, 2, variants, PEERS, timeout=120)


def of(variant):
    """Losses, weights and sent bytes of both ranks."""
    return zip(*(rank[0][variant] for rank in trained()), strict=True)


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
    pairs = zip(network.parameters(), nn.Sequential(*peer_work.units()).parameters(), strict=True)
    assert all((p - q).abs().max() > 1e-4 for p, q in pairs)
    return losses, layers


@pytest.mark.parametrize("peer", [*PEERS, *DATA_PARALLEL])
def test_weights_and_losses_are_those_of_one_process_with_whole_mini_batches(peer):
    losses, layers = plain()
    known, weights, _ = of(peer)
    known = [values for values in known if values]  # of data parallel training those of halves
    assert len(known) == (2 if peer in DATA_PARALLEL else 1)
    assert [sum(parts) / len(known) for parts in zip(*known, strict=True)] == pytest.approx(losses, rel=1e-12)
    assert [sorted(rank) for rank in weights] == PLACES.get(peer.partition("/")[0], [[0], [1]])
    stages = partition(layers, len(layers) // len({k for rank in weights for k in rank}))
    for k, values in (pair for rank in weights for pair in rank.items()):
        for ours, theirs in zip(values, stages[k].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


def test_sent_bytes_are_activations_and_gradients_of_the_boundaries_or_parts_of_the_weights():
    boundary = peer_work.BATCH * 6 * 8
    size = sum(p.nbytes for layer in peer_work.units() for p in layer.parameters())
    sent = {"gpipe/2": boundary, "1f1b/4": boundary, "zero-bubble/4": boundary, "interleaved/2": 3 * boundary}
    sent |= {"zero-bubble-v/2": 2 * boundary, "ddp": size, "fsdp": 3 * size // 2}  # a V's turn stays on its rank
    assert {peer: [*of(peer)][2] for peer in sent} == {peer: (bytes_, bytes_) for peer, bytes_ in sent.items()}


def test_outputs_may_lie_in_memory_as_they_like():
    for peer in PEERS:
        (known,) = (rank[1][peer] for rank in trained() if rank[1][peer])
        assert known == pytest.approx(plain()[0], rel=1e-12)


def test_batch_normalisation_counts_training_batches_only():
    first, second = (rank[2] for rank in trained())
    assert (first[0]["0.2.num_batches_tracked"], second) == (3 * 2, {1: {}})


def test_what_does_not_fit_is_named():
    first, second = (rank[3] for rank in trained())
    assert first == second
    assert first[0].startswith("unknown synchronous pipeline 'gpip'; choose one of gpipe, 1f1b, ")
    assert first[1:] == [
        "gpipe on 2 processes needs 2 stages, not 4",
        "gpipe on 2 processes cannot make 3 micro-batches of 8 samples; give at least 1, and a batch size that is "
        "a multiple",
        "1f1b on 2 processes cannot make 1 micro-batches of 8 samples; give at least 2, and a batch size that is a "
        "multiple",
        "2 processes cannot share 3 samples evenly; give a batch size that is a multiple",
    ]


def test_losses_and_weights_of_the_asynchronous_one_are_the_simulators():
    ends = []
    for strategy in STRATEGIES:
        stages = partition(peer_work.units(), 4)
        engine = PipelineEngine(stages, Delays.layerpipe2(2), make_strategy(strategy))
        optimizer = peer_work.make_optimizer(p for stage in stages for p in stage.parameters())
        losses = [float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]) for x, y in peer_work.batches()]
        (nothing, known), weights, sent = of(f"async/{strategy}")
        assert (nothing, known) == ([], pytest.approx([sum(losses) / len(losses)], rel=1e-12))
        for k, values in (weights[0] | weights[1]).items():
            assert all(torch.equal(a, b) for a, b in zip(values, stages[k].parameters(), strict=True))
        assert sent[0] >= peer_work.BATCH * 6 * 8
        ends.append((float(weights[0][0][0].sum()), sent))
    assert len({end for end, _ in ends}) == len(STRATEGIES)
    assert len({sent for _, sent in ends}) == 1
