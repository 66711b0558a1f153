"""The probe measures what it says, and doesn't touch the run."""

import warnings

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from layerpipe2 import Delays
from layerpipe2.engine.probe import ReconstructionProbe
from tests.engine.test_module import data, module, trainer


def test_rows_per_stage_and_rule():
    model, probe = module("stash"), ReconstructionProbe(["latest", "update-window", "ema-window", "ema-window-raw"], 2)
    trainer(4, callbacks=[probe], enable_checkpointing=False).fit(model, data(), data(shuffle=False))
    rows = {(row["stage"], row["strategy"]): row for row in probe.rows()}
    assert {row["delay"] for row in rows.values()} == {6, 4, 2}
    for (_, strategy), row in rows.items():
        assert row["n"] == (24 - 2 * row["delay"]) // 2 + 1  # the first 2 d updates don't count
        if strategy == "latest":
            assert row["relative_error"] == pytest.approx(1.0)
        elif strategy == "update-window":
            assert row["relative_error"] < 1e-4
        else:
            assert 0.01 < row["relative_error"] < 2
    # SGD with momentum applies about 1 / (1 - 0.9) times lr * gradient: averaging raw gradients misses most of it.
    assert rows[0, "ema-window-raw"]["relative_error"] > rows[0, "ema-window"]["relative_error"]


def test_the_probe_changes_nothing():
    finals = []
    for callbacks in ([], [ReconstructionProbe(["ema-span", "ema-lsq-raw"], 1)]):
        model = module("stash")
        torch.manual_seed(5)
        trainer(2, callbacks=callbacks, enable_checkpointing=False).fit(model, data(), data(shuffle=False))
        finals.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(finals[0].values(), finals[1].values(), strict=True))


def test_a_resumed_probe_goes_on(tmp_path):
    rows = []
    for epochs in ([3], [1, 3]):
        probe = ReconstructionProbe(["ema-span"], 3)
        for i, last in enumerate(epochs):
            probe = ReconstructionProbe(["ema-span"], 3)
            save = ModelCheckpoint(tmp_path / str(len(epochs)), save_last=True, enable_version_counter=False)
            torch.manual_seed(5)
            path = tmp_path / str(len(epochs)) / "last.ckpt" if i else None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
                trainer(last, callbacks=[probe, save]).fit(module("stash"), data(), data(shuffle=False), ckpt_path=path)
        rows.append(probe.rows())
    assert rows[0] == rows[1]


@pytest.mark.parametrize("options", [{"precision": "64-true"}, {}])
def test_the_probe_follows_type_and_drains(options):
    probe = ReconstructionProbe(["update-window"], 1)
    model = module("stash", Delays.custom([2, 1, 1, 0]), drain=True)
    trainer(2, callbacks=[probe], enable_checkpointing=False, **options).fit(model, data(), data(shuffle=False))
    assert [row["n"] for row in probe.rows()] == [6, 10, 10]  # of 2 x 6 updates, without the first 2 d of each epoch
    assert all(row["relative_error"] < 1e-4 for row in probe.rows())
