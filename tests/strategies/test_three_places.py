"""Three strategies of the literature, as a user would add them: on the forward pass, on the gradient, on the update.

They are rows of experiments.field, whose tests hold all of them against their papers; tests/programs draws these three
and their chains with other optimizers, in two processes and over a resume.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.field.compensation import DelayCompensation
from experiments.field.prediction import SpecTrain
from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import ErrorFeedback, chain
from layerpipe2.strategies.names import _joined
from tests.experiments.field import papers
from tests.reference import run_clocked
from tests.test_reference import OPTIMIZERS, problem

CASES = {
    "prediction": (SpecTrain(), papers.SpecTrain),
    "compensation": (DelayCompensation(0.2), papers.Compensation),
    "feedback": (ErrorFeedback(), papers.ErrorFeedback),
}


def trained(strategy, stages, batches, rates):
    engine = PipelineEngine(stages, Delays.layerpipe2(len(stages)), strategy)
    optimizer, losses = OPTIMIZERS["momentum"]([p for stage in stages for p in stage.parameters()]), []
    for (x, y), rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        losses.append(float(engine.train_step(x, y, F.cross_entropy, optimizer)[0]))
    return losses


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_it_is_what_its_equation_says_and_not_stashing(name, network):
    strategy, method = CASES[name]
    stages, batches = problem(network, 1)
    twins, others, rates = copy.deepcopy(stages), copy.deepcopy(stages), [0.02 * 0.97**t for t in range(len(batches))]
    expected = run_clocked(
        twins,
        batches,
        strategy=lambda delay, start: method(None, delay, [start]),
        convention="layerpipe2",
        make_optimizer=OPTIMIZERS["momentum"],
        lr_of=rates.__getitem__,
    )
    losses = trained(strategy, stages, batches, rates)
    assert losses == pytest.approx(expected, abs=1e-12)
    assert losses != trained(make_strategy("stash"), others, batches, rates)
    for mine, theirs in zip(nn.ModuleList(stages).parameters(), nn.ModuleList(twins).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (
            ("latest", "ema-span"),
            "latest and ema-span can't be chained so: both choose the weights of the backward pass",
        ),
        (
            (SpecTrain(), SpecTrain()),
            "SpecTrain and SpecTrain can't be chained so: both choose .* of the forward pass",
        ),
        (("pair", ErrorFeedback()), "pair and ErrorFeedback can't be chained so: the first takes in .*; swap them"),
        (("stash", 3), "chain got 3; give strategies"),
    ],
)
def test_chains_that_are_not_defined_are_refused(links, message):
    with pytest.raises(UserError, match=message):
        chain(*(make_strategy(link) if isinstance(link, str) else link for link in links))


def test_memory_of_a_chain_is_that_of_its_links():
    """What forward passes read is kept once, and only where the backward pass or a gradient needs it."""
    three = SpecTrain(), DelayCompensation(0.2), ErrorFeedback()
    chains = chain(ErrorFeedback(), make_strategy("ema-span")), chain(*three[:2], make_strategy("latest"))
    copies = [strategy.copies(5) for strategy in (*three, *chains)]
    assert copies == [6, 6, 6, 2, 7]


def test_a_name_with_a_plus_is_the_chain_of_its_parts():
    row, made = _joined("feedback+ema-span"), make_strategy("feedback+ema-span")
    assert (row.label, row.family, made.name) == ("error feedback + EMA span", "field", "feedback+ema-span")
    links = [make_strategy(part) for part in ("feedback", "ema-span")]
    assert [repr(link) for link in row.make().links] == [repr(link) for link in links]
    assert (row.make().copies(8), made.copies(8), links[0].copies(8)) == (2.0, 2.0, 9.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "stash+latest",
            "strategy 'stash.latest' joins no mitigation with a history; give both, as in feedback.ema-span",
        ),
        ("feedback+sequential", "joins no mitigation"),
        ("feedback+ema-span-warm", "joins no mitigation"),
        ("ema-span+feedback", "ema-span and feedback can't be chained so: .*; swap them"),
        ("feedback+", "unknown strategy ''"),
        ("feedback+nothing", "unknown strategy 'nothing'"),
    ],
)
def test_names_that_join_nothing_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        _joined(name).make()
