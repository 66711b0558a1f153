"""Time stamps, bytes per stage, and the variants of the runtime in the benchmark, on real processes."""

import itertools
from collections import Counter

import pytest

from experiments.pipelines.measure import first_batches, measure_stages, measure_timeline
from experiments.pipelines.processes import run_ranks
from experiments.pipelines.trainers import build_units, make_trainer
from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.planning.variants import MEMORY_KINDS
from tests.experiments.pipelines.peer_work import CONFIG, JOB, train_job
from tests.sampling import sampled, slow

PARTS = [("async/stash", 1), ("exact/split", 1), ("gpipe/2", 2), ("1f1b/4", 4)]


@pytest.mark.parametrize(("variant", "parts"), sampled(PARTS, PARTS[1::2]))
def test_every_pass_and_update_has_a_span_and_none_overlap(variant, parts):
    found = run_ranks(measure_timeline, 2, JOB, variant, 5, timeout=120)
    for rank, events in enumerate(found):
        computing = sorted((e for e in events if e.what != "wait"), key=lambda e: e.start)
        counts = dict.fromkeys(("forward", "backward"), 5 * parts) | {"weights": 5}
        assert Counter(event.what for event in computing) == counts
        assert {event.stage for event in computing} == {rank}
        assert Counter(e.batch for e in computing if e.what == "backward") == dict.fromkeys(range(5), parts)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(computing))
    first, last = ([e for e in events if e.what == "backward"] for events in found)
    assert all(late.start >= early.start for late, early in zip(first, last, strict=True))  # gradients flow back


@slow
def test_bytes_per_stage_are_modelled_with_the_delays_of_the_variant():
    weights = sum(p.numel() * 4 for unit in build_units(CONFIG, load("digits"))[:5] for p in unit.parameters())
    cases = (("async/stash", 2, 2), ("async/stash/pipedream", 1, 1), ("async/latest", 2, 0), ("exact", 0, 0))
    cases += (("async/stash/recompute", 2, 2),)
    for variant, delay, copies in cases:
        first, last = run_ranks(measure_stages, 2, JOB, variant, timeout=120)[0]
        assert (first["delay"], last["delay"], last["history"]) == (delay, 0, 0)
        assert first["modelled_history"] == copies * weights
        assert copies * weights <= first["history"] <= copies * (weights + 10 * 256)  # padding of ten parameters
        for kind in MEMORY_KINDS[:3]:
            assert first[kind] == first[f"modelled_{kind}"] > 0


def test_bytes_of_torchs_pipelines_are_not_known():
    with pytest.raises(UserError, match="bytes per stage are known of variants async and exact only"):
        run_ranks(measure_stages, 2, JOB, "gpipe/2", timeout=120)


@slow
def test_without_delays_it_is_plain_training_split_or_not():
    data, batches = first_batches(CONFIG, 3)
    mean = sum(make_trainer("plain", JOB, data, batches[0][0], 1).train(batches)) / 3
    for variant in ("exact", "exact/split", "exact/groups", "async/stash"):
        (losses,) = [losses for losses, _ in run_ranks(train_job, 2, variant, 3, timeout=120) if losses]
        assert (losses == pytest.approx([mean], rel=1e-5)) == (variant != "async/stash")


def test_independent_processes_each_train_the_whole_network():
    plain = run_ranks(train_job, 1, "plain", 3, timeout=120)
    assert run_ranks(train_job, 2, "independent", 3, timeout=120) == plain * 2


def test_threads_train_like_one():
    found = [run_ranks(train_job, 1, variant, 3, timeout=120)[0] for variant in ("plain", "threads/2")]
    assert [threads for _, threads in found] == [1, 2]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
