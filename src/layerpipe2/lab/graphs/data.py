"""Graphs by name. Nothing is downloaded: ``digits`` ships with scikit-learn, the others are read where files are there.

``digits``: scikit-learn's 1,797 images of digits; each hears of its 8 nearest neighbours, and they of it.
``wordnet``: the synsets of WordNet (Princeton; Fellbaum 1998), :mod:`layerpipe2.lab.graphs.wordnet`.
``cora``, ``citeseer``: citations, in the npz files of shchur/gnn-benchmark on GitHub (``data/npz``).
``facebook``: pages that like each other, from the folder ``input`` of benedekrozemberczki/MUSAE on GitHub.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from layerpipe2.errors import UserError, integer, look_up, read_file
from layerpipe2.graphs.csr import Graph, Integers
from layerpipe2.lab.data.loading import READ_ERRORS, load
from layerpipe2.lab.data.splits import stratified
from layerpipe2.lab.graphs import wordnet

_LARGEST = 64 * 2**20  # bytes of a file, unpacked, and of features in rows; the largest have 15 and 49 million
HELD_OUT = 0.2
"""Share of each class's nodes that is for testing, and of the others for validation."""
NEAREST, WIDTH = 8, 128
"""Neighbours of an image; columns of hashed features."""
Raw = tuple[Integers, Integers, NDArray[np.float32], Integers]
"""Sources and targets of the edges, features, labels."""


@dataclass(frozen=True)
class GraphData:
    """A graph, and which of its nodes are for training, validation and testing, in rising order."""

    graph: Graph
    train: Integers
    validation: Integers
    test: Integers


@dataclass(frozen=True)
class GraphSource:
    """A graph by name: how it is read, and what it must have.

    Attributes:
        label: for readers.
        read: from the folder of its files.
        nodes, edges: how many there are, edges as the files list them.
        folder: where its files always lie; none: it has to be named.
        remedy: if they aren't there.
    """

    label: str
    read: Callable[[Path], Raw]
    nodes: int
    edges: int
    remedy: str
    folder: Path | None = None


def load_graph(name: str, folder: Path | None = None, seed: int = 0) -> GraphData:
    """A graph whose numbers of nodes and edges have been checked; edges go both ways, splits are stratified.

    Args:
        name: a key of :data:`GRAPHS`.
        folder: of its files, if they aren't where they always are.
        seed: chooses the nodes that are held out.

    Raises:
        UserError: on an unknown name; if files are missing, damaged or of another version; a folder where none is read.
    """
    source = look_up(GRAPHS, name, "graph")
    place = folder or source.folder
    integer(seed, "split seed", 0)
    if folder and source.read is _digits:
        raise UserError(f"graph {name} reads no files, but the folder {folder} is given; leave it out")
    if place is None:
        raise UserError(f"graph {name} needs the folder of its files; {source.remedy}")
    try:
        sources, targets, features, labels = source.read(place)
    except OSError as error:
        what = f"{error.filename or place} can't be read ({error.strerror or error})"
        raise UserError(f"graph {name}: {what}; {source.remedy}") from None
    except (*READ_ERRORS, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"graph {name}: a file in {place} is damaged ({type(error).__name__}); {source.remedy}"
        ) from None
    if (len(labels), len(sources)) != (source.nodes, source.edges):
        found, wanted = f"{len(labels)} nodes and {len(sources)} edges", f"{source.nodes} and {source.edges}"
        raise UserError(f"graph {name}: {place} has {found}, not {wanted}; {source.remedy}")
    graph = Graph.from_edges(source.label, sources, targets, features, labels)
    rest, test = (part.numpy() for part in stratified(torch.from_numpy(labels), HELD_OUT, seed))
    kept, validation = (part.numpy() for part in stratified(torch.from_numpy(labels[rest]), HELD_OUT, seed))
    return GraphData(graph, rest[kept], rest[validation], test)


def hashed(rows: Iterable[Sequence[str]], nodes: int) -> NDArray[np.float32]:
    """Bags of words as rows of length 1, (nodes, 128): a word's CRC-32 says in which column it counts, and its sign."""
    features = np.zeros((nodes, WIDTH), np.float32)
    for row, words in zip(features, rows, strict=True):
        for code in (zlib.crc32(word.encode()) for word in words):
            row[code % WIDTH] += 1 - 2 * (code >> 31)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1)
    return features


def _digits(_: Path) -> Raw:
    from sklearn.neighbors import kneighbors_graph  # takes a second

    data = load("digits")
    images = np.concatenate([part.numpy().reshape(len(part), -1) for part in (data.x_train, data.x_test)])
    targets, sources = kneighbors_graph(images.astype(np.float32), NEAREST).nonzero()
    centred = images / 255 - images.mean(0) / 255  # GIN sums its neighbours: a mean would grow from layer to layer
    features = centred.astype(np.float32)
    return sources, targets, features, np.concatenate([data.y_train.numpy(), data.y_test.numpy()])


def _wordnet(folder: Path) -> Raw:
    synsets = wordnet.read_synsets(folder)
    sources, targets = wordnet.pointers(synsets)
    features = hashed((wordnet.words(synset.gloss) for synset in synsets), len(synsets))
    return sources, targets, features, np.array([synset.category for synset in synsets])


def _citations(name: str) -> Callable[[Path], Raw]:
    def read(folder: Path) -> Raw:
        content = io.BytesIO(read_file(folder / f"{name}.npz", _LARGEST))
        with zipfile.ZipFile(content) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST:
                raise ValueError("more than is expected, unpacked")
        with np.load(content, allow_pickle=False) as file:
            parts = {key: file[key] for key in file.files if key.startswith(("adj", "attr", "labels"))}
        nodes, width = map(int, parts["attr_shape"])
        if nodes != len(parts["labels"]) or 4 * nodes * width > _LARGEST:
            raise ValueError("features of other nodes, or too many")
        features = np.zeros((nodes, width), np.float32)
        features[_rows(parts["attr_indptr"]), parts["attr_indices"]] = parts["attr_data"]
        return _rows(parts["adj_indptr"]), parts["adj_indices"], features, parts["labels"].astype(np.int64)

    return read


def _rows(indptr: NDArray[np.integer]) -> Integers:
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def _facebook(folder: Path) -> Raw:
    def lines(kind: str) -> list[str]:
        return read_file(folder / kind / f"facebook_{kind}.csv", _LARGEST).decode().splitlines()

    ends = np.array([line.split(",") for line in lines("edges")[1:]], np.int64)
    types = [line.rsplit(",", 1)[1] for line in lines("target")[1:]]
    content = json.loads(read_file(folder / "features" / "facebook.json", _LARGEST))
    features = hashed((list(map(str, content[str(node)])) for node in range(len(types))), len(types))
    return ends[:, 0], ends[:, 1], features, np.unique(types, return_inverse=True)[1].astype(np.int64)


_NPZ = "give the folder data/npz of github.com/shchur/gnn-benchmark"
_MUSAE = "give the folder input of github.com/benedekrozemberczki/MUSAE"
GRAPHS = {
    "digits": GraphSource("digits", _digits, 1797, 1797 * NEAREST, "reinstall scikit-learn", Path()),
    "wordnet": GraphSource("WordNet", _wordnet, 117_659, 285_348, wordnet.REMEDY, wordnet.FOLDER),
    "cora": GraphSource("Cora", _citations("cora"), 2708, 5429, _NPZ),
    "citeseer": GraphSource("CiteSeer", _citations("citeseer"), 3312, 4715, _NPZ),
    "facebook": GraphSource("Facebook pages", _facebook, 22_470, 171_002, _MUSAE),
}
"""Name -> where a graph comes from."""
