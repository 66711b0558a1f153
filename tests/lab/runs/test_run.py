"""One training run from configuration to record: what it gives, what it refuses, how it is resumed."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch

from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.lab.runs.callbacks import LAST_CHECKPOINT, EpochRecorder
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import lr_factor
from layerpipe2.lab.runs.records import read_record, write_record
from layerpipe2.lab.runs.train import train_run
from layerpipe2.pipeline import checkpoint as by_stage


@pytest.fixture(scope="session")
def small():
    """Three stages, two epochs of eight mini-batches."""
    return RunConfig(width=8, group_size=3, epochs=2, batch_size=128)


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture
def train(digits, small):
    def run(*, progress=False, **options):
        settings = {name: options.pop(name) for name in list(options) if name in RunConfig.model_fields}
        return train_run(small.copy_with(**settings), data=digits, progress=progress, **options)

    return run


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


def test_the_schedule_warms_up_and_falls_to_zero():
    factors = [lr_factor(step, warmup=3, total=11, schedule="cosine") for step in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[7] == pytest.approx(0.5)
    assert factors[11] == pytest.approx(0.0)
    assert lr_factor(9, warmup=0, total=11, schedule="constant") == 1.0


def interrupt_in_second_epoch(self, trainer, pl_module):
    if trainer.current_epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", ["stash", "ema-lsq"])
def test_a_resumed_run_equals_the_uninterrupted_one(train, tmp_path, strategy, monkeypatch):
    settings = {"strategy": strategy, "epochs": 3, "probe_every": 2, "augment": True}
    whole = train(**settings)
    with monkeypatch.context() as patch:
        patch.setattr(EpochRecorder, "on_validation_start", interrupt_in_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(**settings, checkpoint_dir=tmp_path)
    assert outcome(train(**settings, checkpoint_dir=tmp_path, resume=True)) == outcome(whole)


def test_a_resumed_run_keeps_its_limit(train, tmp_path):
    settings = {"epochs": 4, "max_steps": 12, "checkpoint_dir": tmp_path}  # eight mini-batches an epoch
    whole = train(**settings)
    with pytest.warns(UserWarning, match="the checkpoint is of the middle of an epoch"):
        again = train(**settings, resume=True)
    assert (again["epochs"], again["test"]) == (whole["epochs"], whole["test"])
    assert len(again["epochs"]) == 2


def test_a_state_is_not_overwritten_unasked_nor_taken_for_another_runs(train, tmp_path):
    train(epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match=r"last\.ckpt holds the state of a run; give --resume to go on with it, or"):
        train(epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(UserError, match=r"other settings \(lr was 0\.01\)"):
        train(epochs=1, lr=0.02, checkpoint_dir=tmp_path, resume=True)
    (tmp_path / LAST_CHECKPOINT).write_bytes(b"half of one")
    with pytest.raises(
        UserError, match=r"last\.ckpt is damaged \(File is not a zip file\); delete it and start without"
    ):
        train(epochs=1, checkpoint_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "custom", "delays": (2, 0)}, "delays has 2 entries, but there are 3 stages"),
        ({"batch_size": 5000}, "batch_size is 5000; give at most"),
        ({"device": "cuda"}, "device 'cuda' isn't available"),
        ({"checkpoint_dir": ".", "resume": True}, r"no checkpoint .*last\.ckpt to resume from"),
        ({"resume": True}, "nothing to resume from; name the folder"),
        ({"checkpoint_dir": "file/checkpoints"}, "output folder .*checkpoints can't be made"),
    ],
)
def test_what_cannot_be_run_resumed_or_saved_is_refused_before_training(
    train, settings, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").touch()
    where = {"checkpoint_dir": tmp_path / settings["checkpoint_dir"]} if "checkpoint_dir" in settings else {}
    with pytest.raises(UserError, match=message):
        train(**settings | where)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_state_of_several_processes_is_told_from_one_of_one(train, tmp_path):
    (tmp_path / LAST_CHECKPOINT).mkdir()
    with pytest.raises(UserError, match="was written by several processes; go on under `layerpipe2 launch`"):
        train(checkpoint_dir=tmp_path, resume=True)
    file = tmp_path / "file.ckpt"
    file.touch()
    by_stage.write(file, {"pipeline": {}}, {}, mark="1", first=True, barrier=lambda: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.ckpt", LAST_CHECKPOINT]
    assert by_stage.whole_state_dict(str(file)) == {}
    with pytest.raises(UserError, match="no checkpoint of a pipeline of several processes"):
        by_stage.whole_state_dict(str(tmp_path / "none"))


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_that_diverged_is_not_completed_by_resuming_it(train, tmp_path, epochs):
    settings = {"lr": 1e15, "weight_decay": 1e15, "schedule": "constant", "epochs": epochs, "checkpoint_dir": tmp_path}
    whole = train(**settings)
    again = train(**settings, resume=True)
    assert (whole["status"], whole["diverged_epoch"], len(whole["epochs"])) == ("diverged", 0, 1)
    assert whole["test"] == {"loss": None, "accuracy": None, "images": 450, "correct": None}
    where = {"place": "epochs.0.train_loss", "epoch": 0, "step": 1, "stage": 2, "quantity": "outputs"}
    assert {name: whole["divergence"][name] for name in where} == where
    assert json.dumps(outcome(again)) == json.dumps(outcome(whole))  # as text, NaN equals NaN


def test_a_test_loss_that_is_not_finite_is_divergence(train, monkeypatch):
    found = [{"test_loss": math.nan, "test_accuracy": 0.5}]
    monkeypatch.setattr(pl.Trainer, "test", lambda *arguments, **options: found)
    record = train()
    assert (record["status"], record["diverged_epoch"]) == ("diverged", 1)
    where = {"place": "test.loss", "epoch": 1, "step": None, "stage": None, "quantity": "loss"}
    assert record["divergence"] == where
    assert record["test"] == {"loss": None, "accuracy": None, "images": 450, "correct": None}
    assert [row["epoch"] for row in record["epochs"]] == [0, 1]


@pytest.mark.parametrize(
    "settings", [{}, {"lr": 1e15, "weight_decay": 1e15, "schedule": "constant"}, {"probe_every": 2}]
)
def test_a_record_can_be_read_as_it_was_written(train, tmp_path, settings):
    record = train(**settings)
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json") == json.loads(json.dumps(record).replace("NaN", "null"))
