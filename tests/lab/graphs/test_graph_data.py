"""Graphs by name: read as their formats say, their counts checked, and one line for everything else."""

import io
import json
import zipfile
import zlib

import numpy as np
import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.graphs import data, wordnet
from layerpipe2.lab.graphs.data import GRAPHS, load_graph

NOUNS = """\
  1 This software and database is being provided to you, the LICENSEE
00001740 03 n 01 entity 0 002 ~ 00001930 v 0000 + 00000100 a 0101 | that which is perceived; "an entity"
00002137 05 n 02 abstraction 0 abstract_entity 0 001 & 00000100 s 0000 | a concept
"""
FILES = {
    "noun": NOUNS,
    "verb": "00001930 29 v 01 breathe 0 000 01 + 02 00 | draw air into the lungs\n",
    "adj": "00000100 00 s 0a " + "able 0 " * 10 + "001 @ 00001740 n 0000 | having means\n",
    "adv": "",
}


def folder(path, **changes):
    for part, text in (FILES | changes).items():
        (path / f"data.{part}").write_text(text)
    return path


def test_digits_have_the_nearest_neighbours_as_neighbours():
    found = load_graph("digits")
    graph = found.graph
    x = graph.features
    squares = ((x[5] - x) ** 2).sum(1)
    nearest = np.argsort(squares, kind="stable")[1:9]
    row = graph.col[graph.rowptr[5] : graph.rowptr[6]]
    assert set(nearest) <= set(row.tolist())
    for other in set(row.tolist()) - set(nearest):  # which then has 5 among its own
        assert (((x[other] - x) ** 2).sum(1) < squares[other]).sum() <= 8
    parts = np.concatenate([found.train, found.validation, found.test])
    assert sorted(parts) == list(range(1797))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [1151, 287, 359]
    assert (np.diff(found.train) > 0).all()
    assert load_graph("digits", seed=1).test.tolist() != found.test.tolist()


def test_wordnet_is_read_as_wndb_5_says(tmp_path):
    synsets = wordnet.read_synsets(folder(tmp_path))
    assert [synset.place for synset in synsets] == [("n", 1740), ("n", 2137), ("v", 1930), ("a", 100)]
    assert [synset.category for synset in synsets] == [3, 5, 29, 0]
    # The pointer between two words is left out, and a satellite (s) stands among the adjectives.
    assert [ends.tolist() for ends in wordnet.pointers(synsets)] == [[0, 1, 3], [2, 3, 0]]
    assert wordnet.words(synsets[0].gloss) == ["that", "which", "is", "perceived", "an", "entity"]


def test_hashed_features_count_words_with_a_sign():
    rows = data.hashed([["is", "is", "entity"], []], 2)
    expected = np.zeros(data.WIDTH)
    for word, count in (("is", 2), ("entity", 1)):
        code = zlib.crc32(word.encode())
        expected[code % data.WIDTH] += count * (-1 if code >= 2**31 else 1)
    np.testing.assert_allclose(rows[0], expected / np.linalg.norm(expected), rtol=1e-6)
    assert not rows[1].any()


def test_citations_and_pages_are_read_where_their_files_are(tmp_path):
    csr = {"adj_indptr": [0, 2, 2, 2], "adj_indices": [1, 2], "attr_indptr": [0, 1, 1, 3], "attr_indices": [0, 0, 1]}
    np.savez(tmp_path / "cora.npz", attr_data=[1.0, 2.0, 3.0], attr_shape=[3, 2], labels=np.int8([0, 1, 0]), **csr)
    sources, targets, features, labels = GRAPHS["cora"].read(tmp_path)
    assert (sources.tolist(), targets.tolist(), labels.tolist()) == ([0, 0], [1, 2], [0, 1, 0])
    assert features.tolist() == [[1, 0], [0, 0], [2, 3]]
    for kind, text in {
        "edges/facebook_edges.csv": "id_1,id_2\n0,1\n",
        "target/facebook_target.csv": "id,facebook_id,page_name,page_type\n0,1,a,tvshow\n1,2,b,company\n",
        "features/facebook.json": json.dumps({"0": [7], "1": []}),
    }.items():
        (tmp_path / kind).parent.mkdir()
        (tmp_path / kind).write_text(text)
    sources, targets, features, labels = GRAPHS["facebook"].read(tmp_path)
    assert (sources.tolist(), targets.tolist(), labels.tolist()) == ([0], [1], [1, 0])
    assert features.tolist() == data.hashed([["7"], []], 2).tolist()


def packed(**changes):
    shape, zeros = {"attr_shape": [3, 2]}, ("adj_indptr", "adj_indices", "attr_indptr", "attr_indices", "attr_data")
    np.savez_compressed(
        file := io.BytesIO(), **({name: [0] for name in zeros} | shape | {"labels": [0, 1, 0]} | changes)
    )
    return file.getvalue()


DAMAGED = {
    "empty": lambda: b"",
    "no archive": lambda: b"no archive",
    "a zip's first bytes": lambda: b"PK\3\4garbage",
    "a zip's last bytes are lost": lambda: packed()[:-30],
    "too many features": lambda: packed(attr_shape=[10**7, 10**7]),
    "features of infinitely many nodes": lambda: packed(attr_shape=[np.inf, 2]),
    "features of other nodes": lambda: packed(attr_shape=[4, 2]),
    "a member that unpacks to 80 MB": lambda: packed(adj_indices=np.zeros(10**7, np.int64)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_archive_is_one_line_before_memory_is_taken(tmp_path, monkeypatch, damage):
    (tmp_path / "cora.npz").write_bytes(DAMAGED[damage]())
    unpacked = []
    monkeypatch.setattr(np, "zeros", lambda *_: unpacked.append("features"))
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *_: unpacked.append("member")) if "MB" in damage else None
    with pytest.raises(UserError, match=r"^graph cora: a file in .* is damaged \(\w+\); give the folder data/npz"):
        load_graph("cora", tmp_path)
    assert not unpacked


def test_mistakes_and_damage_are_one_line(tmp_path):
    whole = folder(tmp_path)
    assert GRAPHS["wordnet"].folder == wordnet.FOLDER
    lost, short = tmp_path / "lost", tmp_path / "short"
    for path in (lost, short):
        path.mkdir()
    folder(lost, noun=NOUNS.replace("00001930 v", "00001931 v"))
    folder(short, verb="00001930 29 v\n")
    for name, place, message in (
        ("wordnet", whole, "has 4 nodes and 3 edges, not 117659 and 285348; `apt-get install wordnet-base`"),
        ("wordnet", tmp_path / "none", "data.noun can't be read (No such file or directory); `apt-get install"),
        ("wordnet", lost, "a pointer to ('v', 1931) leads nowhere"),
        ("wordnet", short, "data.verb, line 1, is no synset"),
        ("cora", None, "graph cora needs the folder of its files; give the folder data/npz of github.com/shchur"),
        ("citeseer", tmp_path, "citeseer.npz can't be read"),
        ("facebook", tmp_path, "facebook_edges.csv can't be read"),
        ("digits", tmp_path, f"graph digits reads no files, but the folder {tmp_path} is given; leave it out"),
        ("wordnett", None, "unknown graph 'wordnett'; did you mean 'wordnet'?"),
    ):
        with pytest.raises(UserError) as error:
            load_graph(name, place)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
