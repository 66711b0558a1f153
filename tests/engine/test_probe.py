"""The probe measures what it says, and doesn't touch the run."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.probe import ReconstructionProbe
from layerpipe2.strategies import begin, count
from tests.engine.training import fit, module, resumes


def test_rows_per_stage_and_rule():
    model, probe = module("stash"), ReconstructionProbe(["latest", "update-window", "ema-window", "ema-window-raw"], 2)
    fit(model, 4, callbacks=[probe])
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


class Weights(Callback):
    """The first stage's weights before an epoch and after each of its updates."""

    def __init__(self):
        self.epochs = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.epochs.append([pl_module.engine.delayed[0].latest.clone()])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.epochs[-1].append(pl_module.engine.delayed[0].latest.clone())


def errors(weights, name, delay, every):
    """Of a strategy that starts with a full pipeline of the first of the ``weights``, measured by its definition."""
    strategy, found = make_strategy(name), []
    state = begin(strategy, weights[0], delay)
    for t in range(1, len(weights)):
        strategy.update(state, weights[t - 1], weights[t])
        count(state, delay)
        if t >= 2 * delay and t % every == 0:
            old = weights[max(0, t - delay)]
            recalled = strategy.backward(state, weights[t], old)
            found.append(float((recalled - old).norm() / (weights[t] - old).norm()))
    return found


@pytest.mark.parametrize(
    ("drain", "name", "precision"),
    [(False, "ema-0.9", "32-true"), (True, "ema-0.9", "64-true"), (True, "pair", "32-true")],
)
def test_errors_are_those_of_the_weights_that_training_went_through(drain, name, precision):
    probe, weights = ReconstructionProbe([name], 2), Weights()
    model = module("stash", Delays.custom([2, 1, 1, 0]), drain=drain)
    fit(model, 3, callbacks=[probe, weights], precision=precision)
    whole = weights.epochs if drain else [[*weights.epochs[0], *weights.epochs[1][1:], *weights.epochs[2][1:]]]
    expected = [error for part in whole for error in errors(part, name, 2, 2)]
    row = probe.rows()[0]
    assert (row["n"], row["delay"]) == (len(expected), 2)
    assert row["relative_error"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_of_plain_descent_the_raw_form_is_the_same_average_whatever_the_rate_does():
    probe = ReconstructionProbe(["ema-window", "ema-window-raw"], 1)
    halved = {"scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8), "scheduler_interval": "step"}
    model = module("stash", Delays.custom([2, 1, 1, 0]), **halved)
    model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.05)
    fit(model, 2, callbacks=[probe])
    found = {(row["stage"], row["strategy"]): row["relative_error"] for row in probe.rows()}
    assert found[0, "ema-window-raw"] == pytest.approx(found[0, "ema-window"], rel=1e-3)


def test_a_probe_that_never_came_to_measure_has_no_error():
    assert ReconstructionProbe(["ema-window"]).every_n_steps == 10
    probe = ReconstructionProbe(["ema-window"], 1000)
    fit(module("stash"), 1, callbacks=[probe], enable_checkpointing=False)
    assert [(row["n"], row["relative_error"]) for row in probe.rows()] == 3 * [(0, None)]


def test_several_mini_batches_per_update_are_refused():
    with pytest.raises(UserError, match="the probe looks at an update after every mini-batch, but accumulate=2"):
        fit(module("stash", accumulate=2), 1, callbacks=[ReconstructionProbe(["latest"])], enable_checkpointing=False)
