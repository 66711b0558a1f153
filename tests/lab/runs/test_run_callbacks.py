"""Callbacks and loggers of a run: when they are called and what they get, in one process and in several."""

import csv
from functools import partial

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger

from layerpipe2.lab.data import load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.train import train_run
from layerpipe2.pipeline.strategy import PipelineStrategy
from tests.pipeline import processes

SMALL = RunConfig(width=8, group_size=3, epochs=3, batch_size=128)


class Calls(pl.Callback):
    """Notes when it was called, and how many rows the run's own recorder had by then."""

    def __init__(self):
        self.calls = []
        for name in ("on_train_start", "on_validation_end", "on_train_epoch_end", "on_test_end"):
            setattr(self, name, partial(self._note, name))

    def _note(self, name, trainer, pl_module):
        assert name != "on_train_epoch_end" or "val_loss" in trainer.callback_metrics
        recorder = next(c for c in trainer.callbacks if type(c).__name__ == "EpochRecorder")
        self.calls.append((name, trainer.current_epoch, len(recorder.rows)))


def _run(folder, trainer_strategy=None, callbacks=(), **options):
    logger = CSVLogger(folder, version="run")
    config = SMALL.copy_with(**options)
    record = train_run(config, progress=False, trainer_strategy=trainer_strategy, callbacks=callbacks, loggers=[logger])
    return {name: record[name] for name in ("epochs", "test", "status")}


def _in_process(folder, patience):
    stop = [EarlyStopping("val_loss", patience=patience, min_delta=10.0)]
    return _run(folder, PipelineStrategy(timeout_s=30), stop)


def _logged(folder):
    """Metric -> its values in the order of epochs."""
    (path,) = folder.rglob("metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0] if name not in ("epoch", "step")}


def _assert_logged(folder, record):
    logged = _logged(folder)
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert logged[name] == pytest.approx([row[name] for row in record["epochs"]], rel=1e-6)
    assert logged["test_loss"] == pytest.approx([record["test"]["loss"]], rel=1e-6)
    assert logged["test_accuracy"] == pytest.approx([record["test"]["accuracy"]], rel=1e-6)


def test_a_callback_sees_validation_before_the_recorder_a_logger_every_epoch_and_neither_changes_a_result(tmp_path):
    calls = Calls()
    record = _run(tmp_path, callbacks=[calls], epochs=2)
    epochs = [(name, i, i) for i in (0, 1) for name in ("on_validation_end", "on_train_epoch_end")]
    assert calls.calls == [("on_train_start", 0, 0), *epochs, ("on_test_end", 2, 2)]
    _assert_logged(tmp_path, record)
    plain = train_run(SMALL.copy_with(epochs=2), data=load("digits"), progress=False)
    assert record == {name: plain[name] for name in ("epochs", "test", "status")}


def test_without_a_test_there_is_no_test_in_record_and_logger(tmp_path):
    record = train_run(SMALL.copy_with(epochs=1), progress=False, loggers=[CSVLogger(tmp_path)], test=False)
    assert (record["status"], record["test"]) == ("completed", None)
    assert not [name for name in _logged(tmp_path) if name.startswith("test")]


def test_early_stopping_ends_a_run_in_one_process_and_in_two(tmp_path):
    stop = EarlyStopping("val_loss", patience=1, min_delta=10.0)
    record = _run(tmp_path / "one", callbacks=[stop])
    assert [row["epoch"] for row in record["epochs"]] == [0, 1]
    assert record["status"] == "completed"
    found = processes.run(_in_process, 2, tmp_path / "two", 1)
    assert found[0] == found[1]
    assert [row["epoch"] for row in found[0]["epochs"]] == [0, 1]
    _assert_logged(tmp_path / "two", found[0])
