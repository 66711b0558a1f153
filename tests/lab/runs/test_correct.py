"""The right predictions of every test example: counted, packed into a record, and compared between strategies."""

import base64
import zlib

import numpy as np
import pytest
import torch

from layerpipe2.errors import UserError
from layerpipe2.lab.data import load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.correct import packed, unpacked
from layerpipe2.lab.runs.records import read_record, record_text, write_text
from layerpipe2.lab.runs.train import train_run
from tests.made_records import record


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"network": "mlp", "width": 16, "batch_size": 256, "epochs": 2, "lr": 0.05}, 1),
        ({"network": "gpt", "dataset": "python-docs", "width": 8, "batch_size": 64, "max_steps": 3, "epochs": 1}, 128),
    ],
)
def test_a_run_counts_the_predictions_that_its_accuracy_is_made_of(settings, size):
    test = train_run(RunConfig(**settings, strategy="ema-span"), progress=False)["test"]
    counts = unpacked(test["correct"], test["images"])
    assert counts.sum() == round(test["accuracy"] * test["images"] * size)
    assert 0 < counts.mean() < size


def test_the_order_is_that_of_the_data(monkeypatch):
    """A network that always says 'three' is right exactly where there is a three."""
    monkeypatch.setattr("layerpipe2.engine.module.PipelinedModule.forward", _three)
    settings = {"network": "mlp", "width": 8, "batch_size": 256, "max_steps": 1, "epochs": 1}
    test = train_run(RunConfig(**settings), progress=False)["test"]
    assert (unpacked(test["correct"], 450) == (load("digits").y_test == 3).numpy()).all()


def _three(module, x):
    return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()


def test_counts_come_back_as_they_were():
    counts = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    assert (unpacked(packed(counts), 5000) == counts).all()
    assert len(packed((counts > 40).astype(np.uint8))) < 1500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not base64!", "can't be unpacked"),
        (base64.b64encode(b"not zlib").decode(), "can't be unpacked"),
        (packed(np.ones(9, np.uint8)), "doesn't hold 10 examples"),
        (packed(np.ones(11, np.uint8)), "doesn't hold 10 examples"),
        (base64.b64encode(zlib.compress(bytes(10**7))).decode(), "doesn't hold 10 examples"),
        (base64.b64encode(zlib.compress(bytes(10))[:-4]).decode(), "doesn't hold 10 examples"),
    ],
)
def test_what_is_damaged_or_of_another_size_is_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        unpacked(text, 10)
    made = record()
    made["test"] |= {"images": 10, "correct": text}
    write_text(tmp_path / "run.json", record_text(made))
    with pytest.raises(UserError, match=rf"run\.json.*test.correct {message}"):
        read_record(tmp_path / "run.json")
