"""The probe measures what it says, and doesn't touch the run."""

import pytest
import torch
from test_pipeline import data, module, trainer

from layerpipe2.probe import ReconstructionProbe


def test_rows_per_stage_and_rule():
    model, probe = module("stash"), ReconstructionProbe(["latest", "update-window", "ema-window", "ema-window-raw"], 2)
    trainer(4, callbacks=[probe], enable_checkpointing=False).fit(model, data(), data(shuffle=False))
    rows = {(row["stage"], row["strategy"]): row for row in probe.rows()}
    assert {row["delay"] for row in rows.values()} == {6, 4, 2}
    for (_, strategy), row in rows.items():
        assert row["n"] == (24 - row["delay"]) // 2 + 1
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
