"""Sampled neighbourhoods: a mini-batch of nodes, what each layer hears of which, all as one table.

The table has a row per node, the batch's own nodes first, then those that the first hop found, and so on. Its first
columns are the node's features. The others hold numbers of rows, as floats: for the last hop, which the first layer
reads, ``fan_out[-1]`` columns, ..., for the first hop ``fan_out[0]`` columns. -1: the node has no more neighbours; -2:
it has no place in this layer. So a block travels through the stages of a pipeline inside the one tensor that may pass
between them, and each layer cuts off its own columns and the rows that nobody will ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError
from layerpipe2.graphs import kernels
from layerpipe2.graphs.csr import Graph, Integers

_LARGEST_ROW = 2**24
"""float32 holds every integer up to this one."""


@dataclass(frozen=True)
class Sample:
    """What was found: views of the sampler's memory, until it samples again.

    Attributes:
        nodes: int64 (n,), node numbers, those of the batch first.
        neighbours: int32, a table (counts[h], fan_out[h]) of rows in ``nodes`` after the other, -1 for none.
        counts: int64 (hops + 1,), nodes before the first hop and after each.
    """

    nodes: Integers
    neighbours: NDArray[np.int32]
    counts: Integers


class Sampler:
    """Samples in one thread, without replacement and without bias, in memory that it keeps.

    Args:
        graph: where.
        fan_out: most neighbours per node in each hop, from the mini-batch's nodes outwards, as in (15, 10, 5).
        batch_size: most nodes of a mini-batch.

    Attributes:
        capacity: most nodes that a mini-batch can have before the first hop and after each.

    Raises:
        UserError: if the fan-out is out of range, or a mini-batch may have more nodes than a float32 can number.
    """

    def __init__(self, graph: Graph, fan_out: Sequence[int], batch_size: int) -> None:
        fan_out = graph.checked_fan_out(fan_out)
        self.graph, self.fan_out = graph, np.array(fan_out)
        most = [min(batch_size, graph.num_nodes)]
        for k in fan_out:
            most.append(min(most[-1] * (1 + k), graph.num_nodes))
        if most[-1] > _LARGEST_ROW:
            raise UserError(
                f"mini-batches of {batch_size} nodes with fan-out {fan_out} may have {most[-1]:,d} nodes; at most "
                f"{_LARGEST_ROW:,d} can be numbered: make batch or fan-out smaller"
            )
        self.capacity = np.array(most)
        self._local = np.full(graph.num_nodes, -1, np.int32)
        self._nodes = np.empty(most[-1], np.int64)
        self._neighbours = np.empty(int((self.capacity[:-1] * self.fan_out).sum()), np.int32)
        self._counts = np.empty(len(most), np.int64)

    def sample(self, batch: Integers, key: int) -> Sample:
        """Draw neighbourhoods of the nodes ``batch`` (int64, each once) with the numbers of ``key``."""
        graph = self.graph
        state = (self._local, self._nodes, self._neighbours, self._counts)
        kernels.sample_hops(graph.rowptr, graph.col, batch, self.fan_out, np.uint64(key), *state)
        edges = int((self._counts[:-1] * self.fan_out).sum())
        return Sample(self._nodes[: self._counts[-1]], self._neighbours[:edges], self._counts)

    def slice(self, sample: Sample, table: NDArray[np.generic], ids: NDArray[np.generic], *, padded: bool) -> None:
        """Write the table of a sample.

        Args:
            sample: of this sampler.
            table: of the features' type; its first columns get them. Rows beyond the nodes become zero.
            ids: its last columns get the neighbours; it may be the same array. Both have all rows.
            padded: whether every layer has as many destinations as it can have at most, and not those it has.
        """
        features = self.graph.features
        if features.dtype == np.float16:  # copied, never computed with: numba has no such type on CPUs
            features, table = features.view(np.int16), table.view(np.int16)
        ends = self.ends(sample, padded=padded)
        sampled = (sample.nodes, sample.neighbours, sample.counts)
        kernels.slice_rows(features, *sampled, ends, self.fan_out, table, ids)

    def ends(self, sample: Sample, *, padded: bool) -> Integers:
        """Return how many rows are destinations of each hop; the last number is that of all rows.

        Padded, they depend on the number of the batch's own nodes alone, which is the first.
        """
        return np.concatenate([sample.counts[:1], self.capacity[1:]]) if padded else sample.counts
