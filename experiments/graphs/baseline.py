"""A plain loader of one thread, as one writes it in numpy: what the compiled one is measured against.

It is vectorised, draws without replacement and without bias too, and gives the same kind of table.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerpipe2.graphs import Graph
from layerpipe2.graphs.csr import Integers
from layerpipe2.graphs.sampler import Sampler

Hops = list[NDArray[Any]]


class NumpyLoader:
    """Iterable over (x, y) as :class:`layerpipe2.graphs.SampledLoader` gives them, with other random numbers.

    ``compiled``: sample with the compiled sampler, and slice in numpy.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Integers,
        fan_out: tuple[int, ...],
        batch_size: int,
        *,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        self.graph, self.nodes, self.fan_out, self.batch_size = graph, nodes, fan_out, batch_size
        self._random = np.random.default_rng(seed)
        self._sampler = Sampler(graph, fan_out, batch_size) if compiled else None

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.nodes) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """A new order and new neighbours every time."""
        for seeds in self.orders():
            yield self.slice(seeds, *self.sample(seeds))

    def orders(self) -> list[Integers]:
        """The nodes of each mini-batch of an epoch."""
        order = self._random.permutation(self.nodes)
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def sample(self, seeds: Integers) -> tuple[Integers, Hops]:
        """Draw all nodes, those of the batch first, and for each hop the rows of their neighbours (n, k), -1: none."""
        if self._sampler is not None:
            sample = self._sampler.sample(seeds, int(self._random.integers(2**63)))
            ends = np.cumsum(sample.counts[:-1] * self.fan_out)[:-1]
            parts = zip(np.split(sample.neighbours, ends), self.fan_out, strict=True)
            return sample.nodes, [part.reshape(-1, k) for part, k in parts]
        nodes, hops = seeds, Hops()
        for k in self.fan_out:
            found = self._neighbours(nodes, k)
            both = np.concatenate([nodes, found[found >= 0]])
            _, first, which = np.unique(both, return_index=True, return_inverse=True)
            new = np.sort(first)  # in order of discovery
            rank = np.empty(len(first), np.int64)
            rank[np.argsort(first)] = np.arange(len(first))
            rows = np.full(found.shape, -1)
            rows[found >= 0] = rank[which[len(nodes) :]]
            nodes = both[new]
            hops.append(rows)
        return nodes, hops

    def _neighbours(self, nodes: Integers, k: int) -> Integers:
        """For each node at most k neighbours (n, k), -1: none. Floyd's method, for all nodes at once."""
        start, degree = self.graph.rowptr[nodes], self.graph.rowptr[nodes + 1] - self.graph.rowptr[nodes]
        chosen = np.tile(np.arange(k), (len(nodes), 1))
        many = np.flatnonzero(degree > k)
        for c in range(k):
            j = degree[many] - k + c
            one = self._random.integers(0, j + 1)
            taken = (chosen[many, :c] == one[:, None]).any(1)
            chosen[many, c] = np.where(taken, j, one)
        exists = chosen < degree[:, None]
        found: Integers = np.full(chosen.shape, -1)
        found[exists] = self.graph.col[(start[:, None] + chosen)[exists]]
        return found

    def slice(self, seeds: Integers, nodes: Integers, hops: Hops) -> tuple[Tensor, Tensor]:
        """The table and the labels, in fresh memory."""
        width = self.graph.features.shape[1]
        table: NDArray[np.float32] = np.full((len(nodes), width + sum(self.fan_out)), -2, np.float32)
        table[:, :width] = self.graph.features[nodes]
        column = table.shape[1]
        for rows, k in zip(hops, self.fan_out, strict=True):
            column -= k
            table[: len(rows), column : column + k] = rows
        return torch.from_numpy(table), torch.from_numpy(self.graph.labels[seeds])
