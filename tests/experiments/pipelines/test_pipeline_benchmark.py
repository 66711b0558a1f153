"""The benchmark of pipelines: what it measures, predicts and writes."""

import csv
import json
import re

import pytest
import torch

from experiments.pipelines import benchmark, measure, predict
from experiments.pipelines.machine import Machine
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.settings import Settings
from experiments.pipelines.summary import summarise, table
from experiments.pipelines.trainers import build_units, make_trainer
from layerpipe2.data import load
from layerpipe2.errors import UserError
from layerpipe2.planning import Link, StageWork, Work
from layerpipe2.planning.variants import Variant, group_starts
from paper_figures.pages.pipelines import page
from paper_figures.records.pipelines import load as load_records
from tests.experiments.pipelines.peer_work import CONFIG, JOB

SMALL = "--network even --width 4 --rounds 1 --batches 2 --warmup 1 --layer-repeats 1 --memory-processes --timelines"


def test_it_writes_all_figures_and_prints_them(tmp_path, capsys):
    options = "--variants plain 1f1b/2 --seeds 1 --target 0.01 --target-variants plain 1f1b/2 --memory-processes 2"
    options += " --memory-strategies stash --timelines 1f1b/2 --trace-batches 7 --cut-network mlp --cut-width 4"
    assert benchmark.main([*f"{SMALL} {options} --out".split(), str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "even on digits, mini-batches of 64; 2 processes of one thread; n = 1 rounds of 2 mini-batches" in text
    result = json.loads((tmp_path / "even.json").read_text())
    plain, pipeline = result["rows"]
    assert pipeline["speed_over"]["plain"][0] == plain["seconds_per_batch"][0] / pipeline["seconds_per_batch"][0]
    assert (len(plain["peak_torch_bytes"]), len(pipeline["peak_torch_bytes"])) == (1, 2)
    assert plain["sent_bytes_per_batch"] == 0
    assert pipeline["sent_bytes_per_batch"] == 2 * 64 * 4 * 8 * 8 * 4
    assert plain["epochs_to_target"] == pipeline["epochs_to_target"] == [1]
    assert plain["starts"] == [0]
    assert result["provenance"]["versions"]["torch"] == torch.__version__
    assert re.search(r"async/stash +2 +0 +2 ", text)
    assert [(row["stage"], row["delay"]) for row in result["memory"]] == [(0, 2), (1, 0)]
    groups = json.loads((tmp_path / "mlp.json").read_text())["rows"][2]
    assert (groups["variant"], groups["starts"]) == ("async/ema-window/groups", [0, 5])
    page(load_records(tmp_path, "even")).write(tmp_path / "page")
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
        ("plain fsdp --target-variants fsdp", "no accuracy is known of 'fsdp'"),
        ("plain exact/pipedream", "unknown variant 'exact/pipedream'"),
        ("plain async/stashed", "unknown strategy 'stashed'"),
        ("plain --memory-strategies emma", "unknown strategy 'emma'"),
        ("gpipe/2", "variant 'plain' is missing"),
        ("plain --network vgg19", "rank 0 failed: unknown network 'vgg19'"),
        ("plain gpipe/3", r"rank [01] failed: gpipe on 2 processes cannot make 3 micro-batches of 64"),
    ],
)
def test_a_mistake_is_one_line(variants, message, capsys):
    assert benchmark.main([*f"{SMALL} --variants {variants} --cut-network".split(), ""]) == 2
    error = capsys.readouterr().err
    assert re.match(f"benchmark: error: {message}", error)
    assert error.count("\n") == 1


def test_quick_changes_defaults_and_nothing_else():
    quick, full = (benchmark.parse([*arguments, "--rounds", "7"])[0] for arguments in (["--quick"], []))
    assert quick.rounds == full.rounds == 7
    assert quick.width == 4 != full.width
    assert (quick.quick, full.quick) == (True, False)
    assert (quick.memory_processes, quick.cut_network) == ((2,), "mlp")


def test_pipelines_reach_the_accuracies_of_plain_training():
    found = {
        variant: run_ranks(measure.measure_accuracy, ranks, JOB, variant, 2.0, 2, timeout=120)[0]
        for variant, ranks in (("plain", 1), ("gpipe/2", 2))
    }
    assert found["plain"]["accuracies"] == pytest.approx(found["gpipe/2"]["accuracies"], abs=0.02)
    assert len(found["plain"]["accuracies"]) == 2
    assert found["plain"]["accuracies"][1] > 0.2  # a fresh network gets a tenth
    assert not found["plain"]["reached"]


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


def test_predictions_are_those_of_the_schedules(monkeypatch):
    """Eight equal units, a third of the time forward; the update takes as long as one unit's backward pass."""

    def profiled(work, ranks, config, size, update, strategy, repeats):
        update = {"": 2 * size, "stash": 2 * size, "ema-span": 3 * size}[strategy] if update else 0
        return [(StageWork(Work(size), Work(2 * size), Work(update)),) * 8]

    monkeypatch.setattr(predict, "run_ranks", profiled)
    predictor = predict.Predictor(CONFIG, 2, 1)
    assert predictor.balance(2).starts == (0, 4)
    assert predictor.speedup("plain") == predictor.speedup("plain/4") == 1
    assert predictor.speedup("async/stash") == pytest.approx(2)
    # One process: 8 units (3 + 2) B. Two: (M + 1) / M of half the passes, then half the updates.
    for micro_batches in (2, 4):
        for name in ("gpipe", "1f1b"):
            expected = 40 / (12 * (micro_batches + 1) / micro_batches + 8)
            assert predictor.speedup(f"{name}/{micro_batches}") == pytest.approx(expected)
    assert predictor.speedup("interleaved/4") > predictor.speedup("1f1b/4")
    assert predictor.speedup("zero-bubble/4") is predictor.speedup("fsdp") is None
    assert predictor.speedup("threads/2") == 2
    assert predictor.speedup("ddp") == pytest.approx(40 / (12 + 16))  # half of the passes, and the whole update
    assert predictor.speedup("async/stash/pipedream") == pytest.approx(2)
    assert predictor.speedup("async/stash/split") == pytest.approx(2)
    assert predictor.speedup("async/ema-span") == pytest.approx(40 / 24)  # its first stage is slower by a fifth
    with_history = predict.Predictor(CONFIG.copy_with(batch_size=60), 2, 1, "ema-span")
    assert with_history.balance(2).seconds == (24 * 60, 20 * 60)
    assert with_history.balance(1).sequential == 40 * 60
    assert predictor.speedup("exact") == pytest.approx(1)
    assert predictor.speedup("exact/split") is None


def test_bandwidths_and_latency_count(monkeypatch):
    """Eight units of 1 s forward and 2 s backward per mini-batch, no update; 1 MB of weights and 4 bytes out each."""
    mega = 2**20

    def profiled(work, ranks, config, size, update, strategy, repeats):
        share = size / CONFIG.batch_size
        return [(StageWork(Work(share), Work(2 * share), Work(0), mega, 0, 4, 4),) * 8]

    monkeypatch.setattr(predict, "run_ranks", profiled)
    predictor = predict.Predictor(CONFIG, 2, 1)
    slow = Machine().with_link(Link(mega / 8, latency=0.5))
    # DDP: 4 s forward; from its first second of backward pass on, the link is busy with 1 MB for 8 s, and with 7 MB.
    assert predictor.seconds("ddp", slow) == pytest.approx(4 + 1 + 8 * 8 + 2 * 2 * 0.5)
    assert predictor.seconds("ddp", Machine(local=Link(mega), link=Link(mega))) == pytest.approx(12 + 8)
    assert predictor.seconds("ddp", Machine(alone=8 * mega, together=4 * mega)) == pytest.approx(12 + 8)  # copies
    # A pipeline sends 4 bytes either way, which its neighbours share on one host, and wait for elsewhere:
    # there and back within the delay of two mini-batches.
    assert predictor.seconds("async/latest", slow) == pytest.approx(12)
    assert predictor.seconds("async/latest", slow.with_link(Link(0.25))) == pytest.approx((24 + 2 * 16) / 3)
    assert predictor.seconds("async/latest", Machine(local=Link(8), link=Link(8))) == pytest.approx(12 + 2 * 0.25)
    shared = Machine(local=Link(8), link=Link(8), shared=Link(16))
    assert predictor.seconds("async/latest", shared) == pytest.approx(12 + 2 * 0.125)
    assert predictor.seconds("async/latest", shared.with_link(Link(8))) == pytest.approx(12 + 2 * 0.25)
    assert predictor.seconds("exact", slow) == pytest.approx(24 + 2 * 0.5, rel=1e-4)
    assert predictor.seconds("exact", Machine(local=Link(8), link=Link(8))) == pytest.approx(24 + 2 * 0.5)
    assert predictor.seconds("1f1b/2", slow) > predictor.seconds("1f1b/2") == pytest.approx(18)


def test_what_passes_over_memory_takes_longer_when_all_do(monkeypatch):
    monkeypatch.setattr(predict, "run_ranks", lambda *arguments: [(StageWork(Work(1), Work(2), Work(5)),) * 8])
    predictor, crowded = predict.Predictor(CONFIG, 2, 1), Machine(alone=6.0, together=4.0)
    assert predictor.seconds("plain", crowded) == 64
    assert predictor.seconds("threads/2", crowded) == 24 / 2 + 40 * 1.5 / 2
    assert predictor.seconds("async/latest", crowded) == 12 + 20 * 1.5
    assert Machine(alone=4.0, together=6.0).crowding == Machine().crowding == 1


def test_groups_are_cut_by_number_and_balance_by_time(monkeypatch):
    units = [StageWork(Work(t), Work(0), Work(0)) for t in (1, 1, 1, 1, 4)]
    monkeypatch.setattr(predict, "run_ranks", lambda *arguments: [tuple(units)])
    predictor = predict.Predictor(CONFIG, 2, 1)
    assert predictor.cut("async/latest").starts == (0, 4)
    assert predictor.cut("async/latest/groups").starts == (0, 3)
    assert predictor.speedup("async/latest/groups") == pytest.approx(8 / 5)
    with pytest.raises(UserError, match="9 units do not make 4 groups of equal size"):
        group_starts(9, 4)


def test_ratios_are_taken_within_a_round_and_a_missed_target_is_said():
    def row(variant, times, targets):
        memory = {"peak_torch_bytes": [1e6], "peak_rss_bytes": [[2e6]] * 3, "sent_bytes_per_batch": 0}
        reached = {"seconds_to_target": targets, "epochs_to_target": [None if t is None else 3 for t in targets]}
        return {"variant": variant, "seconds_per_batch": times, "predicted_speed_up": None} | memory | reached

    rows = [
        row("plain", [2, 4, 6], [8, 8]),
        row("1f1b/2", [1, 4, 2], [4, None]),
        row("async/stash", [1, 1, 1], [4, 2]),
        row("threads/2", [2, 2, 2], [None, None]),
    ]
    summarise(rows, 64)
    assert rows[1]["speed_over"]["plain"] == [2, 1, 3]
    assert rows[2]["speed_over"]["1f1b/2"] == [2, 1, 4]
    assert rows[1]["time_to_target_over"]["plain"] == [2, 2, 2]
    assert rows[2]["time_to_target_over"]["plain"] == [3, 2, 4]
    assert rows[0]["samples_per_second"] == 16
    given = {"dataset": "d", "batch_size": 64, "processes": 2, "rounds": 3, "batches": 1}
    lines = table(rows, "n", Settings(**given, seeds=2, target=0.5)).splitlines()
    assert lines[3].endswith("missed")
    assert lines[4].split()[-3:] == ["3", "3.00", "3.00x"]
    assert lines[-1].split() == ["1f1b/2", "2.00x", "(1.00-4.00)"]


def test_variants_want_their_stages():
    wanted = {"plain": 1, "plain/4": 1, "threads/3": 1, "ddp": 1, "async/stash": 3, "exact/split": 3, "gpipe/2": 3}
    wanted |= {"interleaved/2": 6, "zero-bubble-v/4": 6}
    assert {variant: Variant.parse(variant).stages(3) for variant in wanted} == wanted
    ranks = {"plain/4": 1, "threads/3": 1, "gpipe/2": 3, "ddp": 3, "fsdp": 3}
    assert {variant: Variant.parse(variant).ranks(3) for variant in ranks} == ranks
