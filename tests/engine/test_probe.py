"""The probe measures what it says, and doesn't touch the run."""

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from layerpipe2 import Delays
from layerpipe2.engine.probe import ReconstructionProbe
from tests.engine.training import assert_bit_equal, data, fit, module, resumes, trainer


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
    probe = ReconstructionProbe(["ema-span", "ema-lsq-raw"], 1)
    probed = fit(module("stash"), 2, callbacks=[probe], enable_checkpointing=False)
    assert_bit_equal(probed.state_dict(), fit(module("stash"), 2).state_dict())


@resumes
@pytest.mark.parametrize("drain", [False, True])
def test_a_resumed_probe_goes_on(drain, tmp_path):
    delays = Delays.custom([2, 1, 1, 0])

    def rows(epochs, path=None):
        probe, save = ReconstructionProbe(["ema-span"], 3), ModelCheckpoint(tmp_path, save_last=True)
        fit(module("stash", delays, drain=drain), epochs, ckpt_path=path, callbacks=[probe, save])
        return probe.rows(), save.last_model_path

    whole, _ = rows(3)
    _, path = rows(1)
    assert rows(3, path)[0] == whole


@pytest.mark.parametrize("options", [{"precision": "64-true"}, {}])
def test_the_probe_follows_type_and_drains(options):
    probe = ReconstructionProbe(["update-window"], 1)
    model = module("stash", Delays.custom([2, 1, 1, 0]), drain=True)
    trainer(2, callbacks=[probe], enable_checkpointing=False, **options).fit(model, data(), data(shuffle=False))
    assert [row["n"] for row in probe.rows()] == [6, 10, 10]  # of 2 x 6 updates, without the first 2 d of each epoch
    assert all(row["relative_error"] < 1e-4 for row in probe.rows())
