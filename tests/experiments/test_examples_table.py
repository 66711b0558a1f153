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


def spreads(*records):
    """Rate, strategy and reference -> spread."""
    return {(row["rate"], row["strategy"], row["reference"]): row["spread"] for row in example_rows(records)}


def test_every_strategy_of_a_partition_beside_every_reference():
    found = spreads(*(made(name, seed) for name in _COUNTS for seed in (0, 1)))
    pairs = [("stash", "sequential"), ("ema-span", "sequential"), ("ema-span", "stash")]
    assert set(found) == {("tuned", *pair) for pair in pairs}
    # Means over seeds: sequential 1 1 1 1/2, stash 1 1/2 0 0, EMA span 1 1 1/2 1.
    assert found["tuned", "ema-span", "stash"] == pytest.approx(np.std([0, 0.5, 0.5, 1], ddof=1))
    assert found["tuned", "ema-span", "sequential"] == pytest.approx(np.std([0, 0, -0.5, 0.5], ddof=1))


def test_partitions_and_rates_are_kept_apart_and_share_sequential_training():
    alone = [made("sequential", seed) for seed in (0, 1)]
    pipelines = [made("stash", 0), made("stash", 1, "common"), made("ema-span", 1, "common"), made("ema-span", 0)]
    found = spreads(*alone, *pipelines)
    pairs = [("stash", "sequential"), ("ema-span", "sequential"), ("ema-span", "stash")]
    assert set(found) == {(rate, *pair) for rate in ("tuned", "common") for pair in pairs}
    assert found["common", "ema-span", "stash"] == pytest.approx(np.std([0, 1, 0, 1], ddof=1))
    # Stash without a run at the common rate: its tuned runs are compared, seed by seed.
    found = spreads(made("stash", 0), made("stash", 1), made("ema-span", 1, "common"))
    assert found == {("common", "ema-span", "stash"): pytest.approx(np.std([0, 1, 0, 1], ddof=1))}


def test_a_window_of_text_is_one_example():
    text = {"dataset": "wordnet", "network": "gpt", "optimizer": "adamw"}
    (row,) = example_rows(made(name, 0, **text) for name in ("stash", "ema-span"))
    assert (row["examples"], row["spread"]) == (4, pytest.approx(np.std([0, 0, 1, 1], ddof=1) / 64))


def test_records_that_know_no_examples_give_no_rows():
    assert not spreads(*(one | {"rate": "tuned"} for one in (record("stash"), record("stash", 1, diverged=True))))
