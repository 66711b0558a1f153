"""The experiment on sampled graphs: what it is measured against, what it predicts, writes and shows."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.graphs import __main__ as graphs
from experiments.graphs import accuracy
from experiments.graphs.baseline import NumpyLoader
from experiments.graphs.measure import by_maximum, by_queue
from layerpipe2.errors import UserError
from paper_figures import build
from paper_figures.graphs import measured as tables
from paper_figures.graphs.measured import verdicts
from paper_figures.graphs.record import load
from tests.graphs.made import random_graph


@pytest.mark.parametrize("compiled", [False, True])
def test_the_plain_loader_samples_neighbours_without_replacement(compiled):
    graph, fan_out = random_graph(), (4, 3, 2)
    loader = NumpyLoader(graph, np.arange(170), fan_out, 30, compiled=compiled)
    seen = 0
    for nodes in loader.orders():
        found, hops = loader.sample(nodes)
        x, y = loader.slice(nodes, found, hops)
        assert found[: len(nodes)].tolist() == nodes.tolist()
        assert len(set(found.tolist())) == len(found)
        assert y.tolist() == graph.labels[nodes].tolist()
        assert x[:, :4].numpy().tolist() == graph.features[found].tolist()
        for rows, k, column in zip(hops, fan_out, (9, 6, 4), strict=True):
            assert np.array_equal(x[: len(rows), column : column + k].numpy(), rows)
            assert (x[len(rows) :, column : column + k] == -2).all()
            for node, row in zip(found, rows, strict=False):
                mine = graph.col[graph.rowptr[node] : graph.rowptr[node + 1]]
                chosen = found[row[row >= 0]]
                assert len(set(chosen.tolist())) == len(chosen) == min(k, len(mine))
                assert set(chosen.tolist()) <= set(mine.tolist())
        seen += len(nodes)
    assert (seen, len(loader)) == (170, 6)


def test_a_pipelined_epoch_is_predicted_from_its_parts():
    assert by_maximum([1, 1, 1, 1], [3, 3, 3, 3], 1) == by_queue([1, 1, 1, 1], [3, 3, 3, 3], 1, 2) == 13
    assert by_maximum([3, 3, 3, 3], [1, 1, 1, 1], 1) == by_queue([3, 3, 3, 3], [1, 1, 1, 1], 1, 2) == 13
    assert by_queue([3, 3, 3, 3], [1, 1, 1, 1], 2, 3) == 8  # two by two
    assert by_queue([1, 1, 1, 5], [1, 4, 1, 1], 1, 1) == 12  # the long one waits for its turn
    assert by_queue([1, 1, 1, 5], [1, 4, 1, 1], 1, 3) == 9


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    small = "--rounds 2 --batches 3 --batch-size 100 --width 4 --fan-out 3 2 --seeds 2 --epochs 1 --out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "STRATEGIES", ("sequential", "ema-span"))
        graphs.main([*small.split(), str(out / "graphs")])
    return out


def test_every_loader_is_timed_and_its_parts_make_the_whole(written):
    record = json.loads((written / "graphs" / "digits" / "experiment.json").read_text())
    assert record["graph"] == {"nodes": 1797, "edges": 19848, "features": 64, "classes": 10, "train_nodes": 1151}
    (found,) = load(written)["records"]
    assert found.variants == [
        *("plain numpy", "compiled sampler", "reused buffers"),
        *("pipelined, 1 thread", "pipelined, 2 threads", "pipelined, float16 features"),
    ]
    assert len(found.times) == 2 * 6
    whole = found.times["train"] + found.times["prepare"]
    np.testing.assert_allclose(whole, found.times["epoch"], rtol=0.05)
    assert not found.times["transfer"].any()
    assert len(found.predictions) == 2 * 2
    spans = found.spans
    assert set(spans["what"]) == {"sample", "slice", "train"}
    for _, rows in spans.groupby("variant"):
        done = rows[rows["what"] == "slice"].set_index("batch")["stop"]
        trained = rows[rows["what"] == "train"].set_index("batch")["start"]
        assert (trained >= done[trained.index]).all()
    assert found.accuracy is not None
    assert len(found.accuracy) == 3 * 2 * 2


def test_the_page_has_its_figures_tables_and_verdicts(written):
    build.main(["page", "graphs", "--results", str(written), "--out", str(written / "out")])
    text = (written / "out" / "graphs" / "graphs.md").read_text()
    assert set(re.findall(r"\(figures/(\w+)\.svg\)", text)) == {"epochs", "timeline_digits"}
    assert "| ogbn-arxiv | SALIENT | 427 | 47.5 | 1.1 | 477 | 3.5× |" in text
    assert "Published, not ours" in text
    assert "the first 3 of the 12 mini-batches of an epoch" in text
    assert len(json.loads((written / "out" / "graphs" / "verdicts.json").read_text())) == 4
    (found,) = load(written)["records"]
    shown = tables.times(found).set_index("loader")
    assert shown["speed over the plain loader"]["plain numpy"] == "1.00× (1.00–1.00, n=2)"
    assert list(tables.accuracy(found)["network"]) == ["GAT", "GIN", "GraphSAGE"]


def test_what_threads_missed_beside_other_work_stays_open(written):
    (found,) = load(written)["records"]
    slow = found.sampling.assign(wall=1.0)
    for load_average, scaling in ((0.0, "missed"), (3.0, "inconclusive (n=2)")):
        where = found.provenance | {"load_average": load_average}
        words = [verdict.word for verdict in verdicts(replace(found, sampling=slow, provenance=where))]
        assert words[:2] == ["missed", scaling]
    fast = slow.assign(wall=slow["sampler"].map({"plain numpy": 10.0, "compiled": 1.0}) / slow["threads"])
    assert [verdict.word for verdict in verdicts(replace(found, sampling=fast))][:2] == ["reached", "reached"]


def test_missing_and_broken_records_are_one_line(written, tmp_path):
    with pytest.raises(UserError, match=r"no records in .*; measure first: make graphs"):
        load(tmp_path)
    shutil.copytree(written / "graphs", tmp_path / "graphs")
    folder = tmp_path / "graphs" / "digits"
    table = pd.read_csv(folder / "times.csv")
    table.drop(columns="epoch").to_csv(folder / "times.csv", index=False)
    with pytest.raises(UserError, match=r"times.csv' lacks the columns epoch; measure again: make graphs"):
        load(tmp_path)
    record = json.loads((folder / "experiment.json").read_text())
    for wrong in (
        {},
        record | {"provenance": {}},
        record | {"provenance": record["provenance"] | {"load_average": "?"}},
    ):
        (folder / "experiment.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"experiment.json cannot be read"):
            load(tmp_path)


def test_accuracies_of_an_earlier_command_are_not_kept(tmp_path):
    tables = {"times": [{"round": 0}], "accuracy": [{"seed": 0}]}
    for rows in (tables, tables | {"accuracy": []}):
        graphs._write(tmp_path, rows, {})
        assert (tmp_path / "accuracy.csv").exists() == bool(rows["accuracy"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--graph wordnet --folder /nowhere", "data.noun can't be read (No such file or directory); `apt-get install"),
        ("--fan-out 27", "fan-out in graph digits, whose largest degree is 26, is 27; give an integer from 1 to 26"),
        ("--fan-out 0", "--fan-out is (0,); give a list of integers >= 1"),
        ("--fan-out", "fan-out is (); give one number per layer"),
        ("--threads", "--threads is (); give a list of distinct integers >= 1 and <= 64"),
        ("--threads 1 1", "--threads is (1, 1); give a list of distinct integers"),
        ("--threads 65", "--threads is (65,); give a list of distinct integers >= 1 and <= 64"),
        ("--network sag", "unknown graph network 'sag'; did you mean 'sage'?"),
    ],
)
def test_mistakes_in_options_are_one_line(options, message):
    with pytest.raises(UserError, match=rf"\A[^\n]*{re.escape(message)}[^\n]*\Z"):
        graphs.main(options.split())
