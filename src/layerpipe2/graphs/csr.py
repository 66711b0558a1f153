"""A graph in memory: whose neighbours are whose, what is known of each node, and which class it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError, integer, shown

Integers = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Graph:
    """Compressed sparse rows, as SALIENT has them: node ``i`` hears of ``col[rowptr[i] : rowptr[i + 1]]``.

    Attributes:
        name: for readers.
        rowptr: int64 (N + 1,), rising from 0 to the number of edges.
        col: int64 (E,), neighbours, each row in rising order and without repetition.
        features: float32 or float16 (N, F).
        labels: int64 (N,), classes counted from 0.

    Raises:
        UserError: if the arrays do not fit each other, name nodes that aren't there, or have features not finite.
    """

    name: str
    rowptr: Integers
    col: Integers
    features: Floats
    labels: Integers

    def __post_init__(self) -> None:
        for field in ("rowptr", "col", "features", "labels"):
            object.__setattr__(self, field, _array(getattr(self, field), f"graph {self.name}: {field}"))
        if not self.labels.size:
            raise UserError(f"graph {self.name} has no nodes; give at least one")
        if self.labels.dtype != np.int64 or self.labels.ndim != 1 or self.labels.min() < 0:
            raise UserError(f"graph {self.name}: labels are no classes; give an int64 from 0 for each node")
        _check_rows(self)
        if self.features.ndim != 2 or len(self.features) != self.num_nodes or not self.features.shape[1]:
            found = "x".join(map(str, self.features.shape))
            raise UserError(f"graph {self.name} has {self.num_nodes} nodes and features {found}; give a row per node")
        dtype = self.features.dtype
        if dtype not in (np.float32, np.float16):
            raise UserError(f"graph {self.name} has features of {dtype}; give float32 or float16")
        if not np.isfinite(self.features).all():
            raise UserError(f"graph {self.name} has features that are no finite {dtype}; give such numbers")

    @staticmethod
    def from_edges(
        name: str, sources: Integers, targets: Integers, features: Floats, labels: Integers, *, symmetric: bool = True
    ) -> Graph:
        """Make a graph from its edges: ``targets[e]`` hears of ``sources[e]``; repeated edges count once.

        Args:
            name, features, labels: as in the class.
            sources, targets: node numbers (E,), of any integer type.
            symmetric: whether every edge goes both ways.

        Raises:
            UserError: if an edge has no two ends that are nodes.
        """
        nodes = _array(labels, f"graph {name}: labels").size
        ends = [_array(end, f"graph {name}: edges") for end in (sources, targets)]
        if ends[0].ndim != 1 or ends[0].shape != ends[1].shape or any(end.dtype.kind not in "iu" for end in ends):
            raise UserError(f"graph {name}: edges are no two rows of as many integers; give sources and targets")
        for end in ends:
            _check_ids(end, nodes, f"graph {name}: an edge")
        source, target = (end.astype(np.int64) for end in ends)
        if symmetric:
            source, target = np.concatenate([source, target]), np.concatenate([target, source])
        edges = np.unique(target * nodes + source)  # by row, then by neighbour
        rowptr = np.searchsorted(edges, np.arange(nodes + 1) * nodes)
        return Graph(name, rowptr.astype(np.int64), edges % max(nodes, 1), features, labels)

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.labels)

    @property
    def num_edges(self) -> int:
        """Number of entries of ``col``: an edge that goes both ways counts twice."""
        return len(self.col)

    @property
    def num_classes(self) -> int:
        """Number of classes: the largest label and one."""
        return int(self.labels.max()) + 1

    @property
    def largest_degree(self) -> int:
        """Number of neighbours of the node that has most."""
        return int(np.diff(self.rowptr).max())

    def in_half_precision(self) -> Graph:
        """Return the same graph with features of float16: half of the memory that slicing reads.

        Raises:
            UserError: if a feature is too large for it.
        """
        with np.errstate(over="ignore"):  # the constructor refuses what became infinite
            features = self.features.astype(np.float16)
        return Graph(self.name, self.rowptr, self.col, features, self.labels)

    def checked_nodes(self, nodes: Integers, what: str) -> Integers:
        """Return ``nodes`` as int64, if each is a node of this graph and none stands twice.

        Raises:
            UserError: if not, or if there are none.
        """
        found = _array(nodes, f"{what}: nodes")
        if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
            raise UserError(f"{what}: nodes are {shown(nodes)}; give a row of at least one node number")
        _check_ids(found, self.num_nodes, what)
        if len(np.unique(found)) != len(found):
            raise UserError(f"{what}: a node stands there twice; give each once")
        return found.astype(np.int64)

    def checked_fan_out(self, fan_out: Sequence[int]) -> tuple[int, ...]:
        """Return ``fan_out`` as Python's integers, if it can be drawn in this graph: each from 1 to the largest degree.

        Raises:
            UserError: if not.
        """
        if not isinstance(fan_out, Sequence | np.ndarray) or isinstance(fan_out, str | bytes) or not len(fan_out):
            raise UserError(f"fan-out is {shown(fan_out)}; give one number per layer, as in (15, 10, 5)")
        most = self.largest_degree
        if not most:
            raise UserError(f"graph {self.name} has no edges; there are no neighbours to sample")
        what = f"fan-out in graph {self.name}, whose largest degree is {most},"
        return tuple(integer(int(k) if isinstance(k, np.integer) else k, what, 1, most) for k in fan_out)


def _array(values: object, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:  # rows of different lengths
        raise UserError(f"{what} are no array; give rows of one length") from None


def _check_rows(graph: Graph) -> None:
    rowptr, col = graph.rowptr, graph.col
    if rowptr.dtype != np.int64 or col.dtype != np.int64 or rowptr.shape != (graph.num_nodes + 1,) or col.ndim != 1:
        raise UserError(f"graph {graph.name}: rowptr and col aren't int64 of N + 1 and E entries; see Graph.from_edges")
    if rowptr[0] or rowptr[-1] != len(col) or (np.diff(rowptr) < 0).any():
        raise UserError(f"graph {graph.name}: rowptr doesn't rise from 0 to the {len(col)} edges; see Graph.from_edges")
    _check_ids(col, graph.num_nodes, f"graph {graph.name}: an edge")
    starts = np.zeros(len(col) + 1, bool)
    starts[rowptr] = True
    if not (starts[1:-1] | (np.diff(col) > 0)).all():
        raise UserError(f"graph {graph.name}: a row of col doesn't rise; make the graph with Graph.from_edges")


def _check_ids(found: NDArray[np.integer], nodes: int, what: str) -> None:
    wrong = found[(found < 0) | (found >= nodes)]
    if len(wrong):
        raise UserError(f"{what} names node {wrong[0]}; nodes are numbered from 0 to {nodes - 1}")
