"""One training run from configuration to record."""

import json
import math

import pytest
import torch

from layerpipe2.engine.device import resolve_device
from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.optim import lr_factor
from layerpipe2.runs.plan import make_plan


def outcome(record):
    return {name: record[name] for name in ("epochs", "test", "reconstruction", "status")}


def test_the_record_says_what_was_run_and_what_came_of_it(train, small):
    record = train(probe_every=2)
    assert json.loads(json.dumps(record)) == record
    assert record["config"] == small.to_dict() | {"probe_every": 2}
    assert record["delays"] == [4, 2, 0]
    assert record["network"]["units"] == 9
    sizes = record["network"]["parameters_per_stage"]
    assert record["history_copies"] == pytest.approx((4 * sizes[0] + 2 * sizes[1]) / sum(sizes))
    assert (record["status"], record["diverged_epoch"]) == ("completed", None)
    assert [row["epoch"] for row in record["epochs"]] == [0, 1]
    assert all(0 <= row["val_accuracy"] <= 1 and math.isfinite(row["train_loss"]) for row in record["epochs"])
    assert record["epochs"][0]["lr"] == small.lr
    assert record["test"]["images"] == 450
    assert {row["strategy"] for row in record["reconstruction"]} >= {"latest", "ema-lsq", "ema-window-raw"}
    assert 0 < record["provenance"]["train_time_s"] < record["provenance"]["wall_time_s"]


def test_the_same_settings_give_the_same_run_and_another_seed_another(train):
    first = train()
    assert outcome(train()) == outcome(first)
    assert outcome(train(seed=1)) != outcome(first)


def test_the_baseline_is_one_stage_without_delay(train):
    record = train(strategy="sequential", probe_every=1)
    assert (record["delays"], record["convention"], record["config"]["group_size"]) == ([0], "none", 9)
    assert (record["history_copies"], record["reconstruction"]) == (0.0, [])


@pytest.mark.parametrize("precision", ["float64", "bf16"])
@pytest.mark.parametrize("strategy", ["ema-window", "ema-0.5-raw"])
def test_every_precision_trains(train, precision, strategy):
    record = train(precision=precision, strategy=strategy, optimizer="adamw", lr=1e-3, gradient_clip_norm=1.0)
    assert record["status"] == "completed"


def test_divergence_is_a_result(train):
    record = train(lr=1e30, schedule="constant", epochs=3)
    assert (record["status"], record["diverged_epoch"]) == ("diverged", 0)
    assert record["test"] == {"loss": None, "accuracy": None, "images": 450}
    assert len(record["epochs"]) == 1


@pytest.mark.parametrize("strategy", ["latest", "ema-span", "ema-lsq-raw", "pair", "pair-0.9", "update-window"])
def test_every_strategy_may_diverge(train, strategy):
    record = train(strategy=strategy, lr=1e12, schedule="constant", epochs=3, batch_size=256)
    assert (record["status"], record["test"]["accuracy"]) == ("diverged", None)


def test_max_steps_ends_the_run_with_validation_and_test(train):
    record = train(max_steps=10, epochs=5)
    assert [row["epoch"] for row in record["epochs"]] == [0, 1]  # 8 mini-batches in an epoch
    assert record["test"]["accuracy"] is not None


def test_progress_is_a_bar_on_a_terminal_and_sparse_lines_elsewhere(train, capsys, monkeypatch):
    train(progress=True)
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2
    assert lines[1].startswith("mlp g3 stash s0: epoch 2/2, val loss ")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train(progress=True)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "mpl"}, "unknown network 'mpl'"),
        ({"strategy": "ema-windov"}, "unknown strategy 'ema-windov'"),
        ({"group_size": 10}, "group size for 9 units is 10"),
        ({"convention": "custom", "delays": (2, 0)}, "delays has 2 entries, but there are 3 stages"),
        ({"batch_size": 5000}, "batch_size is 5000; give at most"),
    ],
)
def test_settings_that_do_not_fit_are_refused(train, settings, message):
    with pytest.raises(UserError, match=message):
        train(**settings)


def test_custom_delays_reach_the_pipeline(digits):
    plan = make_plan(RunConfig(group_size=3, convention="custom", delays=(5, 1, 0)), digits.input_shape, 10)
    assert plan.delays.per_stage == (5, 1, 0)


def test_a_missing_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match="device 'cuda' isn't available"):
        resolve_device("cuda")


def test_the_schedule_warms_up_and_falls_to_zero():
    factors = [lr_factor(step, warmup=3, total=11, schedule="cosine") for step in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[7] == pytest.approx(0.5)
    assert factors[11] == pytest.approx(0.0)
    assert lr_factor(9, warmup=0, total=11, schedule="constant") == 1.0
