"""The benchmark of pipelines on real processes: what it trains, measures, predicts and writes."""

import itertools
import json
import re
from collections import Counter

import pytest
import torch

from experiments.pipelines import benchmark
from experiments.pipelines.benchmark import summarise, table
from experiments.pipelines.measure import first_batches, measure_peak, measure_stages, measure_timeline
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.settings import QUICK, BenchmarkSettings, parse
from experiments.pipelines.trainers import build_units, make_trainer
from layerpipe2.cli import Parser
from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.planning.variants import MEMORY_KINDS, Variant
from paper_figures.page import find_questions
from tests.experiments.pipelines.peer_work import CONFIG, JOB, several, train_job
from tests.sampling import slow
from tests.small_experiments import read_rows

SMALL = "--network even --width 4 --rounds 1 --batches 2 --warmup 1 --layer-repeats 1 --memory-processes --timelines"


def weights_of(first, last):
    """Bytes of these units of :data:`JOB`."""
    return sum(p.nbytes for unit in build_units(CONFIG, load("digits"))[first:last] for p in unit.parameters())


@slow
def test_it_writes_all_figures_and_prints_them(tmp_path, capsys):
    options = "--variants plain 1f1b/2 --memory-processes 2"
    options += " --memory-strategies stash --timelines 1f1b/2 --trace-batches 7 --cut-network mlp --cut-width 4"
    tmp_path = tmp_path / "pipelines"
    benchmark.main([*f"{SMALL} {options} --out".split(), str(tmp_path)])
    assert re.search(r"1f1b/2 +[\d.]+ +[\d.]+x ", capsys.readouterr().out)
    result = json.loads((tmp_path / "even.json").read_text())
    plain, pipeline = result["rows"]
    assert pipeline["speed_over"]["plain"][0] == plain["seconds_per_batch"][0] / pipeline["seconds_per_batch"][0]
    assert (len(plain["peak_torch_bytes"]), len(pipeline["peak_torch_bytes"])) == (1, 2)
    assert (plain["sent_bytes_per_batch"], pipeline["sent_bytes_per_batch"]) == (0, 2 * 64 * 4 * 8 * 8 * 4)
    assert plain["starts"] == [0]
    assert result["provenance"]["versions"]["torch"] == torch.__version__
    assert [(row["stage"], row["delay"]) for row in result["memory"]] == [(0, 2), (1, 0)]
    groups = json.loads((tmp_path / "mlp.json").read_text())["rows"][2]
    assert (groups["variant"], groups["starts"]) == ("async/ema-window/groups", [0, 5])
    page = find_questions()["pipelines"]
    made = page.build(page.load(tmp_path.parent))
    made.write(tmp_path / "page")
    assert "async/ema-window/groups" not in made.text  # names are for readers
    rounds = [(line["variant"], line["round"]) for line in read_rows(tmp_path / "even.csv")]
    assert rounds == [("plain", "0"), ("1f1b/2", "0")]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        *(
            (
                f"plain {name}",
                f"unknown variant '{name}'; give plain, independent, ddp, fsdp, exact or async/",
            )
            for name in ("gpip/2", "gpipe", "plain/0", "threads", "threads/two", "async/split", "ddp/2")
        ),
        *(
            (f"plain {name}", f"unknown variant '{name}'")
            for name in ("async/stash/split/split", "exact/pipedream", "exact/recompute")
        ),
        ("plain async/latest/recompute", "variant 'async/latest/recompute' recomputes with weights that its history"),
        ("plain async/stashed", "unknown strategy 'stashed'"),
        ("plain --memory-strategies emma", "unknown strategy 'emma'"),
        ("gpipe/2", "variant 'plain' is missing"),
    ],
)
def test_a_mistake_is_one_line(variants, message):
    with pytest.raises(UserError, match=rf"\A{message}[^\n]*\Z"):
        benchmark.main([*f"{SMALL} --variants {variants} --cut-network".split(), ""])


def test_quick_changes_defaults_and_nothing_else():
    given = (["--quick", "--rounds", "7"], ["--rounds", "7"])
    quick, full = (parse(Parser(), BenchmarkSettings, arguments, QUICK)[0] for arguments in given)
    assert quick.rounds == full.rounds == 7
    assert (quick.width, quick.quick, quick.memory_processes, quick.cut_network) == (4, True, (2,), "mlp")
    assert (full.width, full.quick) == (None, False)


def test_peak_memory_counts_weights_gradients_momentum_and_activations():
    (held,) = run_ranks(measure_peak, 1, JOB, "plain", 3, timeout=120)
    weights, activations = weights_of(0, None), 9 * 64 * 4 * 8 * 8 * 4  # outputs of the ReLUs
    assert 3 * weights + activations <= held.pop("peak") <= 3 * (3 * weights + activations)
    assert held == {"parameters": weights, "optimizer": weights, "history": 0}
    late = run_ranks(measure_peak, 2, JOB, "async/stash", 3, timeout=120)
    assert sum(rank["parameters"] for rank in late) == sum(rank["optimizer"] for rank in late) == weights
    assert late[0]["history"] >= 2 * late[0]["parameters"] > late[1]["history"] == 0


def test_every_pass_and_update_has_a_span_and_none_overlap():
    parts = {"async/stash": 1, "exact/split": 1, "gpipe/2": 2, "1f1b/4": 4}
    calls = [(measure_timeline, JOB, variant, 5) for variant in parts]
    for count, ranks in zip(parts.values(), zip(*run_ranks(several, 2, calls, timeout=120), strict=True), strict=True):
        for rank, events in enumerate(ranks):
            computing = sorted((e for e in events if e.what != "wait"), key=lambda e: e.start)
            whole = dict.fromkeys(("forward", "backward"), 5 * count) | {"weights": 5}
            assert Counter(event.what for event in computing) == whole
            assert {event.stage for event in computing} == {rank}
            assert Counter(e.batch for e in computing if e.what == "backward") == dict.fromkeys(range(5), count)
            assert all(a.stop <= b.start for a, b in itertools.pairwise(computing))
        first, last = ([e for e in events if e.what == "backward"] for events in ranks)
        assert all(late.start >= early.start for late, early in zip(first, last, strict=True))  # gradients flow back


def test_bytes_per_stage_are_modelled_with_the_delays_of_the_variant():
    cases = {"async/stash": (2, 2), "async/stash/pipedream": (1, 1), "async/latest": (2, 0), "exact": (0, 0)}
    cases |= {"async/stash/recompute": (2, 2)}
    found, _ = run_ranks(several, 2, [(measure_stages, JOB, variant) for variant in cases], timeout=120)
    weights = weights_of(0, 5)
    for (delay, copies), (first, last) in zip(cases.values(), found, strict=True):
        assert (first["delay"], last["delay"], last["history"]) == (delay, 0, 0)
        assert first["modelled_history"] == copies * weights
        assert copies * weights <= first["history"] <= copies * (weights + 10 * 256)  # padding of ten parameters
        for kind in MEMORY_KINDS[:3]:
            assert first[kind] == first[f"modelled_{kind}"] > 0
    with pytest.raises(UserError, match="bytes per stage are known of variants async and exact only"):
        run_ranks(measure_stages, 2, JOB, "gpipe/2", timeout=120)


def test_what_has_no_delay_trains_like_one_process_and_threads_and_parts_do_too():
    alone = [(train_job, variant, 3) for variant in ("plain", "plain/4", "threads/2")]
    (plain, one), (parts, _), (threaded, two) = run_ranks(several, 1, alone, timeout=120)[0]
    assert (one, two) == (1, 2)
    assert plain == pytest.approx(parts, rel=1e-4)
    assert plain == pytest.approx(threaded, rel=1e-4)
    variants = ("independent", "exact", "exact/split", "exact/groups", "async/stash")
    ranks = run_ranks(several, 2, [(train_job, variant, 3) for variant in variants], timeout=120)
    for variant, *both in zip(variants, *ranks, strict=True):
        losses = [losses for losses, _ in both if losses]
        if variant == "independent":
            assert losses == [plain] * 2
        else:
            assert (losses == [pytest.approx([sum(plain) / 3], rel=1e-5)]) == (variant != "async/stash")


def test_accumulated_micro_batches_train_the_same_weights():
    data, batches = first_batches(CONFIG, 3)
    trainers = [make_trainer(variant, JOB, data, batches[0][0], 1) for variant in ("plain", "plain/4")]
    for trainer in trainers:
        trainer.train(batches)
    for p, q in zip(*(trainer.stages[0].parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_ratios_are_taken_within_a_round():
    memory = {"peak_torch_bytes": [1e6], "peak_rss_bytes": [[2e6]] * 3, "sent_bytes_per_batch": 0}
    times = {"plain": [2, 4, 6], "1f1b/2": [1, 4, 2], "async/stash": [1, 1, 1]}
    known = {"predicted_speed_up": None} | memory
    rows = [{"variant": name, "seconds_per_batch": seconds} | known for name, seconds in times.items()]
    summarise(rows, 64)
    assert rows[1]["speed_over"]["plain"] == [2, 1, 3]
    assert rows[2]["speed_over"]["1f1b/2"] == [2, 1, 4]
    assert rows[0]["samples_per_second"] == 16
    given = {"dataset": "d", "batch_size": 64, "processes": 2, "rounds": 3, "batches": 1}
    lines = table(rows, "n", BenchmarkSettings(**given)).splitlines()
    assert lines[4].split()[:4] == ["async/stash", "64.0", "4.00x", "(2.00-6.00)"]


def test_variants_want_their_stages_and_ranks():
    wanted = {"plain": (1, 1), "plain/4": (1, 1), "threads/3": (1, 1), "ddp": (1, 3), "fsdp": (1, 3)}
    wanted |= {"async/stash": (3, 3), "exact/split": (3, 3), "gpipe/2": (3, 3)}
    wanted |= {"interleaved/2": (6, 3), "zero-bubble-v/4": (6, 3)}
    forms = {name: Variant.parse(name) for name in wanted}
    assert {name: (form.stages(3), form.ranks(3)) for name, form in forms.items()} == wanted
