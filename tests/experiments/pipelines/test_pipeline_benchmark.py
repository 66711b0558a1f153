"""The benchmark of pipelines: what it measures, predicts and writes."""

import csv
import json
import re

import pytest
import torch

from experiments.pipelines import benchmark, measure
from experiments.pipelines.benchmark import summarise, table
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.settings import QUICK, BenchmarkSettings, parse
from experiments.pipelines.trainers import build_units, make_trainer
from layerpipe2.cli import Parser
from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.planning.variants import Variant
from paper_figures.page import find_questions
from tests.experiments.pipelines.peer_work import CONFIG, JOB
from tests.sampling import slow

SMALL = "--network even --width 4 --rounds 1 --batches 2 --warmup 1 --layer-repeats 1 --memory-processes --timelines"


@slow
def test_it_writes_all_figures_and_prints_them(tmp_path, capsys):
    options = "--variants plain 1f1b/2 --memory-processes 2"
    options += " --memory-strategies stash --timelines 1f1b/2 --trace-batches 7 --cut-network mlp --cut-width 4"
    tmp_path = tmp_path / "pipelines"
    benchmark.main([*f"{SMALL} {options} --out".split(), str(tmp_path)])
    text = capsys.readouterr().out
    assert "even on digits, mini-batches of 64; 2 processes of one thread; n = 1 rounds of 2 mini-batches" in text
    result = json.loads((tmp_path / "even.json").read_text())
    plain, pipeline = result["rows"]
    assert pipeline["speed_over"]["plain"][0] == plain["seconds_per_batch"][0] / pipeline["seconds_per_batch"][0]
    assert (len(plain["peak_torch_bytes"]), len(pipeline["peak_torch_bytes"])) == (1, 2)
    assert plain["sent_bytes_per_batch"] == 0
    assert pipeline["sent_bytes_per_batch"] == 2 * 64 * 4 * 8 * 8 * 4
    assert plain["starts"] == [0]
    assert result["provenance"]["versions"]["torch"] == torch.__version__
    assert re.search(r"async/stash +2 +0 +2 ", text)
    assert [(row["stage"], row["delay"]) for row in result["memory"]] == [(0, 2), (1, 0)]
    groups = json.loads((tmp_path / "mlp.json").read_text())["rows"][2]
    assert (groups["variant"], groups["starts"]) == ("async/ema-window/groups", [0, 5])
    page = find_questions()["pipelines"]
    page.build(page.load(tmp_path.parent)).write(tmp_path / "page")
    assert "async/ema-window/groups" not in (tmp_path / "page" / "pipelines.md").read_text()  # names are for readers
    with (tmp_path / "even.csv").open() as file:
        assert [(line["variant"], line["round"]) for line in csv.DictReader(file)] == [("plain", "0"), ("1f1b/2", "0")]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("plain gpip/2", "unknown variant 'gpip/2'; give plain, independent, ddp, fsdp, exact or async/STRATEGY, "),
        ("plain gpipe", "unknown variant 'gpipe'"),
        ("plain plain/0", "unknown variant 'plain/0'"),
        ("plain threads", "unknown variant 'threads'; .* as in gpipe/4, or threads/NUMBER"),
        ("plain threads/two", "unknown variant 'threads/two'"),
        ("plain async/split", "unknown variant 'async/split'"),
        ("plain async/stash/split/split", "unknown variant 'async/stash/split/split'"),
        ("plain ddp/2", "unknown variant 'ddp/2'"),
        ("plain exact/pipedream", "unknown variant 'exact/pipedream'"),
        ("plain exact/recompute", "unknown variant 'exact/recompute'"),
        ("plain async/latest/recompute", "variant 'async/latest/recompute' recomputes with weights that its history"),
        ("plain async/stashed", "unknown strategy 'stashed'"),
        ("plain --memory-strategies emma", "unknown strategy 'emma'"),
        ("gpipe/2", "variant 'plain' is missing"),
        ("plain --network vgg19", "rank 0 failed: unknown network 'vgg19'"),
        ("plain gpipe/3", r"rank [01] failed: gpipe on 2 processes cannot make 3 micro-batches of 64"),
    ],
)
def test_a_mistake_is_one_line(variants, message):
    with pytest.raises(UserError, match=rf"\A{message}[^\n]*\Z"):
        benchmark.main([*f"{SMALL} --variants {variants} --cut-network".split(), ""])


def test_quick_changes_defaults_and_nothing_else():
    given = (["--quick", "--rounds", "7"], ["--rounds", "7"])
    quick, full = (parse(Parser(), BenchmarkSettings, arguments, QUICK)[0] for arguments in given)
    assert quick.rounds == full.rounds == 7
    assert quick.width == 4 != full.width
    assert (quick.quick, full.quick) == (True, False)
    assert (quick.memory_processes, quick.cut_network) == ((2,), "mlp")


def test_peak_memory_counts_weights_gradients_momentum_and_activations():
    (held,) = run_ranks(measure.measure_peak, 1, JOB, "plain", 3, timeout=120)
    data = load("digits")
    weights = sum(p.numel() * 4 for unit in build_units(CONFIG, data) for p in unit.parameters())
    activations = 9 * 64 * 4 * 8 * 8 * 4  # outputs of the ReLUs
    assert 3 * weights + activations <= held.pop("peak") <= 3 * (3 * weights + activations)
    assert held == {"parameters": weights, "optimizer": weights, "history": 0}
    late = run_ranks(measure.measure_peak, 2, JOB, "async/stash", 3, timeout=120)
    assert sum(rank["parameters"] for rank in late) == sum(rank["optimizer"] for rank in late) == weights
    assert late[0]["history"] >= 2 * late[0]["parameters"] > late[1]["history"] == 0


def test_accumulated_micro_batches_train_like_whole_ones():
    data = load("digits")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 1, 8, 8, generator=generator), torch.randint(10, (64,), generator=generator)
    trainers = [make_trainer(variant, JOB, data, x, 1) for variant in ("plain", "plain/4")]
    losses = [trainer.train([(x, y)] * 3) for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    whole, parts = (list(trainer.stages[0].parameters()) for trainer in trainers)
    for p, q in zip(whole, parts, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_ratios_are_taken_within_a_round():
    def row(variant, times):
        memory = {"peak_torch_bytes": [1e6], "peak_rss_bytes": [[2e6]] * 3, "sent_bytes_per_batch": 0}
        return {"variant": variant, "seconds_per_batch": times, "predicted_speed_up": None} | memory

    rows = [
        row("plain", [2, 4, 6]),
        row("1f1b/2", [1, 4, 2]),
        row("async/stash", [1, 1, 1]),
        row("threads/2", [2, 2, 2]),
    ]
    summarise(rows, 64)
    assert rows[1]["speed_over"]["plain"] == [2, 1, 3]
    assert rows[2]["speed_over"]["1f1b/2"] == [2, 1, 4]
    assert rows[0]["samples_per_second"] == 16
    given = {"dataset": "d", "batch_size": 64, "processes": 2, "rounds": 3, "batches": 1}
    lines = table(rows, "n", BenchmarkSettings(**given)).splitlines()
    assert lines[4].split()[:4] == ["async/stash", "64.0", "4.00x", "(2.00-6.00)"]
    assert lines[-1].split() == ["1f1b/2", "2.00x", "(1.00-4.00)"]


def test_variants_want_their_stages():
    wanted = {"plain": 1, "plain/4": 1, "threads/3": 1, "ddp": 1, "async/stash": 3, "exact/split": 3, "gpipe/2": 3}
    wanted |= {"interleaved/2": 6, "zero-bubble-v/4": 6}
    assert {variant: Variant.parse(variant).stages(3) for variant in wanted} == wanted
    ranks = {"plain/4": 1, "threads/3": 1, "gpipe/2": 3, "ddp": 3, "fsdp": 3}
    assert {variant: Variant.parse(variant).ranks(3) for variant in ranks} == ranks
