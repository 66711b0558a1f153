"""The rows that answer questions, by their names: each against a readable form of what it says."""

import pytest
import torch

import experiments.recall.rows  # noqa: F401, its names are strategies
from layerpipe2 import UserError, find_strategy, make_strategy
from layerpipe2.engine.probe import ReconstructionProbe
from layerpipe2.engine.quiet_trainer import quiet_trainer, running_lightning
from layerpipe2.lab.data import load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import make_loaders, make_plan
from layerpipe2.lab.runs.train import make_module, train_run
from layerpipe2.strategies import begin, count
from layerpipe2.theory.poles import two_poles
from tests.strategies.recalling import engine, losses

SMALL = {"width": 8, "group_size": 3, "epochs": 2, "batch_size": 128}


def path(strategy):
    made, optimizer = engine(strategy)
    losses(made, optimizer, range(20))
    return torch.cat([p.detach().flatten() for stage in made.stages for p in stage.parameters()])


@pytest.mark.parametrize(("name", "same"), [("mixed-0", "stash"), ("mixed-1", "latest"), ("latest-from-0", "latest")])
def test_at_its_end_it_is_the_other_strategy_bit_for_bit(name, same):
    assert torch.equal(path(make_strategy(name)), path(make_strategy(same)))


@pytest.mark.parametrize("share", [-0.5, 0.25])
def test_mixed_weights_are_between_or_beyond(share):
    old, new = torch.randn(2, 9, dtype=torch.float64)
    recalled = make_strategy(f"mixed-{share}").backward({}, new, old)
    torch.testing.assert_close(recalled, (1 - share) * old + share * new, rtol=0, atol=1e-15)


def test_a_start_with_exact_weights_is_that_of_the_setting():
    def epochs(**settings):
        return train_run(RunConfig(**SMALL | settings), data=load("digits"), progress=False)["epochs"]

    named = epochs(strategy="latest-from-5")
    assert named == epochs(strategy="latest", stash_epochs=5 / 8)
    assert named != epochs(strategy="latest")


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_two_poles_add_the_kernel_of_the_theory_up(delay):
    updates, latest = torch.randn(30, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    strategy, found = make_strategy("two-poles"), two_poles(delay)
    state, expected = begin(strategy, latest, delay), torch.zeros(4, dtype=torch.float64)
    for t, update in enumerate(updates):
        strategy.update(state, update, latest)
        count(state, delay)
        rows, heard = torch.tensor(found.rows, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
        expected = torch.zeros(4, dtype=torch.float64)
        for past in reversed(updates[: t + 1]):
            expected += torch.tensor(found.gains, dtype=torch.float64) @ heard * past
            heard = rows @ heard
    torch.testing.assert_close(strategy.backward(state, latest, latest), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "message"), [("mixed-x", "'x' there"), ("latest-from-1.5", "whole number"), ("nothing-from-3", "unknown")]
)
def test_what_is_no_row_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        find_strategy(name)


def test_along_a_run_of_plain_sgd_two_poles_recall_better_than_the_pair():
    config, data = RunConfig(width=16, batch_size=16, momentum=0.0, weight_decay=0.0, lr=0.02, epochs=2), load("digits")
    plan = make_plan(config, data.input_shape, data.num_classes)
    loader = make_loaders(config, data, torch.device("cpu"))["train"]
    probe, names = ReconstructionProbe(["two-poles", "pair", "ema-lsq"], 10), {}
    with running_lightning("You defined a `validation_step` but have no `val_dataloader`"):
        quiet_trainer(2, torch.device("cpu"), [probe], limits=(None, 0)).fit(make_module(plan, len(loader)), loader)
    for row in probe.rows():
        names.setdefault(row["strategy"], []).append(row["relative_error"])
    means = {name: sum(errors) / len(errors) for name, errors in names.items()}
    assert means["two-poles"] < 0.9 * means["pair"] < means["ema-lsq"]
