"""Logged along a training: recall errors and cosines of gradients. They are right, and training doesn't notice."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from layerpipe2 import Delays, UserError
from layerpipe2.engine.gradient_probe import PROBED, GradientProbe, cosine
from layerpipe2.engine.probe import ReconstructionProbe
from layerpipe2.engine.settings import check_probe_alone
from layerpipe2.strategies import StashFirst, make_strategy
from tests.engine.training import assert_bit_equal, checkpoint, fit, module, resume, resumes

DELAYS = Delays.custom([2, 1, 1, 0])


class Logged(Callback):
    """What was logged for each update, by its number (from 1)."""

    def __init__(self):
        self.found, self.updates = {}, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.updates += 1
        now = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("probe/")}
        if now and now != (self.found and list(self.found.values())[-1]):
            self.found[self.updates] = now


@pytest.mark.parametrize("options", [{}, {"stage_seed": 3, "precision": "bf16", "drain": True}])
def test_training_is_bit_equal_with_and_without(options):
    probe = ReconstructionProbe(["ema-span", "ema-lsq-raw"], 1)
    probed = fit(module("stash", DELAYS, probe_every=1, **options), 2, callbacks=[probe])
    assert_bit_equal(probed.state_dict(), fit(module("stash", DELAYS, **options), 2).state_dict())


def test_every_few_updates_each_full_stage_is_logged():
    logged = Logged()
    model = fit(module("stash", DELAYS, probe_every=4), 2, callbacks=[logged])
    assert list(logged.found) == [4, 8, 12]
    first, last = logged.found[4], logged.found[8]
    kinds = {(name, what) for name in PROBED for what in ("recall_error", "gradient_cosine")}
    assert first.keys() == {f"probe/{name}/{what}/stage{k}" for name, what in kinds for k in (1, 2)}
    assert last.keys() == {f"probe/{name}/{what}/stage{k}" for name, what in kinds for k in (0, 1, 2)}
    assert last["probe/latest/recall_error/stage0"] == pytest.approx(1)
    assert 0.3 < last["probe/latest/gradient_cosine/stage0"] < 1
    assert last["probe/pair/recall_error/stage0"] < 1e-3  # exact at delays up to 2
    assert last["probe/pair/gradient_cosine/stage0"] > last["probe/latest/gradient_cosine/stage0"]
    assert model.hparams.probe_every == 4


def test_the_errors_are_those_of_the_probe_of_weights():
    logged, probe = Logged(), ReconstructionProbe(["ema-lsq"], 1)
    fit(module("stash", DELAYS, probe_every=5), 1, callbacks=[logged])
    fit(module("stash", DELAYS), 1, callbacks=[probe])
    # Before update 5 is after update 4: with the first one measured at 2 d = 4 updates, the first of stage 0.
    name = "probe/ema-lsq/recall_error/stage0"
    assert logged.found.get(5, {})[name] == pytest.approx(float(probe._series[0, "ema-lsq"].errors[0]))


def test_nothing_is_measured_by_default_or_without_delays():
    logged = Logged()
    assert module("latest").configure_callbacks() == []
    fit(module("stash", Delays.none(4), probe_every=1), 1, callbacks=[logged])
    assert logged.found == {}


@resumes
def test_a_resumed_training_measures_as_the_whole_one(tmp_path):
    def made():
        return module("stash", DELAYS, probe_every=3, stage_seed=3)

    whole, rest = Logged(), Logged()
    checkpoint(tmp_path / "whole", made(), 2, callbacks=[whole])
    resume(checkpoint(tmp_path / "part", made(), 1), made(), 2, callbacks=[rest])
    assert list(rest.found.values()) == [whole.found[9], whole.found[12]]


@resumes
def test_a_probe_that_begins_at_a_resume_lets_its_averages_start(tmp_path):
    saved = checkpoint(tmp_path, module("stash", DELAYS, stage_seed=3), 1)
    probe = ReconstructionProbe(["ema-lsq"], 1)
    resume(saved, module("stash", DELAYS, stage_seed=3), 2, callbacks=[probe])
    assert {row["delay"]: row["n"] for row in probe.rows()} == {2: 6 - 2 * 2 + 1, 1: 6 - 2 * 1 + 1}


@pytest.mark.parametrize("given", [["ema-span"], ["latest", "update-window"]])
def test_other_strategies_by_a_callback(given):
    logged = Logged()
    fit(module("stash", DELAYS), 1, callbacks=[GradientProbe(given, 5), logged])
    assert {name.split("/")[1] for name in logged.found[5]} == set(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "ema-span"}, "probe_every=2 .* the strategy is 'ema-span'; give strategy='stash'"),
        ({"strategy": "stash", "accumulate": 2}, "probe_every=2 .* accumulate=2 makes .*; give accumulate=1, or"),
    ],
)
def test_what_it_cannot_do_is_refused_when_the_module_is_made(options, message):
    with pytest.raises(UserError, match=message):
        module(**options, probe_every=2)


def test_weights_that_will_not_stay_exact_and_several_processes_are_refused():
    model = module("stash", probe_every=2)
    model.strategy = StashFirst(then=make_strategy("latest"), updates=100)
    with pytest.raises(UserError, match=r"probe_every=2 measures along updates with exact weights"):
        fit(model, 1)
    with pytest.raises(UserError, match="probe_every=2 needs all stages in one process"):
        check_probe_alone(2)
    check_probe_alone(0)


def test_cosines_of_gradients_that_vanish_or_overflow():
    one, zero = torch.ones(3), torch.zeros(3)
    assert cosine(one, zero).isnan()
    assert float(cosine(one * torch.inf, one)) == 0
    assert float(cosine(-2 * one, one)) == pytest.approx(-1)


def test_a_network_that_cannot_be_copied_is_refused():
    model = module("stash", DELAYS, probe_every=5)
    model.stages[0].extra = nn.Identity()
    model.stages[0].extra.kept = torch.ones(1, requires_grad=True) * 2  # has a graph
    with pytest.raises(UserError, match="the network can't be copied"):
        fit(model, 1)
