"""The spread of two strategies' difference over the test examples, from the records of an experiment."""

import numpy as np
import pytest

from experiments.accuracy.examples import example_rows
from layerpipe2.lab.runs.correct import packed
from tests.made_records import record

_COUNTS = {
    "sequential": [[1, 1, 1, 0], [1, 1, 1, 1]],
    "stash": [[1, 1, 0, 0], [1, 0, 0, 0]],
    "ema-span": [[1, 1, 1, 1], [1, 1, 0, 1]],
}


def made(strategy, seed, rate="tuned", **settings):
    found = record(strategy, seed, **settings) | {"rate": rate}
    counts = np.array(_COUNTS[strategy][seed], np.uint8)
    found["test"] |= {"images": 4, "correct": packed(counts)}
    return found


def test_every_strategy_of_a_partition_beside_every_reference():
    rows = list(example_rows(made(name, seed) for name in _COUNTS for seed in (0, 1)))
    found = {(row["strategy"], row["reference"]): row["spread"] for row in rows}
    assert set(found) == {("stash", "sequential"), ("ema-span", "sequential"), ("ema-span", "stash")}
    # Means over seeds: sequential 1 1 1 1/2, stash 1 1/2 0 0, EMA span 1 1 1/2 1.
    assert found["ema-span", "stash"] == pytest.approx(np.std([0, 0.5, 0.5, 1], ddof=1))
    assert found["ema-span", "sequential"] == pytest.approx(np.std([0, 0, -0.5, 0.5], ddof=1))
    assert all(row["examples"] == 4 for row in rows)


def test_partitions_and_rates_are_kept_apart_and_share_sequential_training():
    alone = [made("sequential", seed) for seed in (0, 1)]
    pipelines = [made("stash", 0), made("stash", 1, "common"), made("ema-span", 1, "common"), made("ema-span", 0)]
    rows = list(example_rows([*alone, *pipelines]))
    found = {(row["rate"], row["strategy"], row["reference"]): row["spread"] for row in rows}
    assert set(found) == {
        ("tuned", "stash", "sequential"),
        ("common", "stash", "sequential"),
        ("common", "ema-span", "sequential"),
        ("common", "ema-span", "stash"),
        ("tuned", "ema-span", "sequential"),
        ("tuned", "ema-span", "stash"),
    }
    assert found["common", "ema-span", "stash"] == pytest.approx(np.std([0, 1, 0, 1], ddof=1))


def test_at_the_rate_of_stash_its_tuned_runs_are_compared_seed_by_seed():
    rows = example_rows([made("stash", 0), made("stash", 1), made("ema-span", 1, "common")])
    found = {(row["rate"], row["strategy"], row["reference"]): row["spread"] for row in rows}
    assert found == {("common", "ema-span", "stash"): pytest.approx(np.std([0, 1, 0, 1], ddof=1))}


def test_a_window_of_text_is_one_example():
    (row,) = example_rows(
        made(name, 0, dataset="wordnet", network="gpt", optimizer="adamw") for name in ("stash", "ema-span")
    )
    assert row["spread"] == pytest.approx(np.std([0, 0, 1, 1], ddof=1) / 64)


def test_records_that_know_no_examples_give_no_rows():
    old = record("stash") | {"rate": "tuned"}
    lost = record("stash", 1, diverged=True) | {"rate": "tuned"}
    assert list(example_rows([old, lost])) == []
