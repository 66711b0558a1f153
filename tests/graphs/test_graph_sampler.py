"""The sampler is unbiased, draws without replacement, and equals the one that is written to be read."""

import itertools

import numpy as np
import pytest
from scipy.stats import chisquare

from layerpipe2.errors import UserError
from layerpipe2.graphs import Graph, SampledLoader
from layerpipe2.graphs import sampler as sampler_module
from layerpipe2.graphs.kernels import batch_key, below
from layerpipe2.graphs.sampler import Sampler
from tests.graphs import sampling_reference as reference
from tests.graphs.made import random_graph

LEAVES, DRAWS, BATCH = 8, 100_000, 1000


@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_subset_of_the_neighbours_is_equally_likely(k):
    """Which of 8 leaves each of 1,000 centres keeps, mini-batch after mini-batch; k different ones."""
    targets, sources = np.divmod(np.arange(BATCH * LEAVES), LEAVES)
    nodes = BATCH + LEAVES
    features, labels = np.zeros((nodes, 1), np.float32), np.zeros(nodes, np.int64)
    stars = Graph.from_edges("stars", BATCH + sources, targets, features, labels, symmetric=False)
    sampler, counts = Sampler(stars, (k,), BATCH), np.zeros(1 << LEAVES, int)
    for batch in range(DRAWS // BATCH):
        found = sampler.sample(np.arange(BATCH), batch_key(3, 0, batch))
        kept = found.nodes[found.neighbours.reshape(BATCH, k)] - BATCH
        counts += np.bincount((1 << kept).sum(1), minlength=1 << LEAVES)
    subsets = [sum(1 << leaf for leaf in leaves) for leaves in itertools.combinations(range(LEAVES), k)]
    assert counts[subsets].sum() == DRAWS
    assert chisquare(counts[subsets]).pvalue > 1e-3


def test_numbers_that_would_not_share_the_words_evenly_are_drawn_again():
    n, state, draws, words = 3 * 2**30, 7, reference.words(7), 0
    for _ in range(100):
        before = state
        mine, state = below(np.uint64(state), n)
        assert mine == reference.below(draws, n)
        words += (state - before) * pow(0x9E3779B97F4A7C15, -1, 2**64) % 2**64
    assert 110 < words < 170  # a quarter of them


def test_a_node_without_neighbours_stays_alone_and_all_neighbours_are_kept_where_they_are_few():
    graph = random_graph()
    sampler = Sampler(graph, (graph.largest_degree,), graph.num_nodes)
    found = sampler.sample(np.arange(graph.num_nodes), 0)
    rows = found.neighbours.reshape(-1, graph.largest_degree)
    for node in range(graph.num_nodes):
        assert rows[node][rows[node] >= 0].tolist() == graph.col[graph.rowptr[node] : graph.rowptr[node + 1]].tolist()
    assert (rows[-1] == -1).all()  # isolated


def test_edges_are_sorted_made_unique_and_symmetric_on_request():
    edges, rest = (np.array([2, 0, 2, 2]), np.array([0, 1, 0, 1])), (np.zeros((3, 1), np.float32), np.array([0, 1, 0]))
    both, one = (Graph.from_edges("g", *edges, *rest, symmetric=s) for s in (True, False))
    assert (both.rowptr.tolist(), both.col.tolist()) == ([0, 2, 4, 6], [1, 2, 0, 2, 0, 1])
    assert (one.rowptr.tolist(), one.col.tolist()) == ([0, 1, 3, 3], [2, 0, 2])


FEATURES, LABELS = np.zeros((3, 1), np.float32), np.zeros(3, np.int64)


def test_lists_and_integers_of_numpy_are_taken():
    graph = Graph.from_edges("g", [0, 1], [1, 2], FEATURES, [0, 1, 0])
    assert (graph.labels.dtype, graph.num_classes) == (np.int64, 2)
    for fan_out in ([2, 1], np.array([2, 1]), (np.int32(2), 1)):
        assert repr(graph.checked_fan_out(fan_out)) == "(2, 1)"
        loader = SampledLoader(graph, [0, 1], fan_out, 2, threads=0)
        assert (loader.fan_out, next(iter(loader))[0].shape) == ((2, 1), (3, 4))


def test_more_nodes_than_a_float_can_number_are_refused(monkeypatch):
    monkeypatch.setattr(sampler_module, "_LARGEST_ROW", 100)
    with pytest.raises(UserError, match=r"may have 200 nodes; at most 100 can be numbered"):
        Sampler(random_graph(), (5, 5), 50)
