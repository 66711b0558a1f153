"""Every row of the field equals its paper's equations on the clock-driven machine, or says why it can't be had."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.field import laws, rotation
from experiments.field.nesterov import LookAhead
from experiments.field.rows import OPTIMIZERS, ROWS, SCREENED, row_of
from layerpipe2 import Delays, UserError, find_strategy, make_strategy
from layerpipe2.engine.step import PipelineEngine
from tests.experiments.field import papers
from tests.reference import CLOCKS, run_clocked
from tests.sampling import slow
from tests.test_reference import problem

RATES = {"sgd": 0.02, "adamw": 0.003, "nadam": 0.003, "muon": 0.003, "look-ahead": 0.3, "rotated": 0.003}


@dataclass(frozen=True)
class Case:
    """A row's name as it is trained, its paper, and the delays of six stages if they aren't the default's."""

    name: str
    paper: Any
    law: str | Delays = "layerpipe2"
    accumulate: int = 1
    how: dict[str, Any] = field(default_factory=dict)


LIVE = {"live": True}
CASES = {
    "paci": Case("paci", papers.Paper, "pipedream", 2, LIVE),
    "feedback": Case("feedback", papers.ErrorFeedback, laws.constant_one(6)),
    "feedback-d": Case("feedback-d", papers.ErrorFeedback, how={"by_delay": True}),
    "spectrain": Case("spectrain", papers.SpecTrain, how=LIVE),
    "pipeoptim": Case("pipeoptim", papers.PipeOptim, how=LIVE),
    "xpipe": Case("xpipe-6", papers.XPipe, "pipedream"),
    "last-update": Case("last-update", papers.LastUpdate),
    "look-ahead": Case("look-ahead", papers.Nesterov),
    "nadam": Case("nadam", papers.Paper),
    "t1": Case("t1-12", papers.PipeMare, how={"until": 12} | LIVE),
    "t2": Case("t2", papers.PipeMare, how={"corrects": True}),
    "spike": Case("spike", papers.SpikeCompensation, how=LIVE),
    "dc-asgd": Case("dc-asgd-0.2", papers.Compensation),
    "dc-asgd-fixed": Case("dc-asgd-fixed-0.5", papers.Compensation, how={"scale": 0.5, "adaptive": False}),
    "gap-aware": Case("gap-aware", papers.GapAware),
    "2bw": Case("2bw", papers.Paper, laws.constant_one(6, 3), 3),
    "amdp": Case("amdp", papers.Paper, laws.at_most_one(6, 2), 2),
}
JOINED = {
    "t1-12+t2": Case("t1-12+t2", papers.PipeMare, how={"until": 12, "corrects": True}),
    "spectrain+stash": Case("spectrain+stash", papers.SpecTrain),
}


def delays_of(case: Case, stages: int) -> Delays:
    return Delays.by_law(case.law, stages) if isinstance(case.law, str) else case.law


def making(optimizer, lr):
    how = {} if optimizer == "look-ahead" else {"weight_decay": 1e-2}
    return lambda parameters: OPTIMIZERS[optimizer](list(parameters), lr=lr, **how)


def trained(case, optimizer, stages, batches, rate):
    """Losses of the engine."""
    engine = PipelineEngine(stages, delays_of(case, len(stages)), make_strategy(case.name), accumulate=case.accumulate)
    made = making(optimizer, rate(0))([p for stage in stages for p in stage.parameters()])
    losses = []
    for t, (x, y) in enumerate(batches):
        for group in made.param_groups:
            group["lr"] = rate(t // case.accumulate)
        losses.append(float(engine.train_step(x, y, F.cross_entropy, made)[0]))
    return losses


def assert_as_in_the_paper(case, optimizer, given, monkeypatch):
    stages, batches = given
    twins, others = copy.deepcopy(stages), copy.deepcopy(stages)
    K, delays = len(stages), delays_of(case, len(stages)).per_stage
    monkeypatch.setitem(CLOCKS, "custom", lambda K, k: (K, 0, K * delays[k] + K - 1 - k))
    rate = lambda t: RATES[optimizer] * 0.97**t  # noqa: E731
    how = case.how | ({"stages": K} if case.paper is papers.XPipe else {})
    expected = run_clocked(
        twins,
        batches,
        strategy=lambda delay, start: case.paper(None, delay, [start], **how),
        convention=case.law if isinstance(case.law, str) else "custom",
        make_optimizer=torch.optim.SGD if optimizer == "look-ahead" else making(optimizer, rate(0)),
        lr_of=rate,
        accumulate=case.accumulate,
    )
    losses = trained(case, optimizer, stages, batches, rate)
    assert losses == pytest.approx(expected, abs=1e-12)
    assert math.isfinite(losses[-1])
    if optimizer != "look-ahead":  # whose reference keeps w, not y
        for mine, theirs in zip(nn.ModuleList(stages).parameters(), nn.ModuleList(twins).parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    if make_strategy(case.name).kind != "Stash":
        assert losses != trained(replace(case, name="stash"), optimizer, others, batches, rate)


PLAIN = {"sgd", "look-ahead"}
"""Optimizers for which rounding stays rounding: a bias before BatchNorm has no gradient but that, which Adam scales."""


@pytest.mark.parametrize(("name", "optimizer"), [(name, one) for name in CASES for one in ROWS[name].optimizers])
def test_a_row_is_what_its_paper_says(name, optimizer, monkeypatch):
    assert_as_in_the_paper(CASES[name], optimizer, problem("mlp", 1), monkeypatch)


@slow
@pytest.mark.parametrize(
    ("name", "optimizer"), [(name, one) for name in CASES for one in ROWS[name].optimizers if one in PLAIN]
)
def test_a_row_is_what_its_paper_says_of_images(name, optimizer, monkeypatch):
    case = CASES[name]
    if name == "xpipe":
        case = replace(case, name="xpipe-4")
    if not isinstance(case.law, str):
        case = replace(case, law=(ROWS[name].delays or laws.constant_one)(4, case.accumulate))
    assert_as_in_the_paper(case, optimizer, problem("cnn", 1), monkeypatch)


@pytest.mark.parametrize("name", JOINED)
def test_rows_joined_by_plus_are_both(name, monkeypatch):
    assert_as_in_the_paper(JOINED[name], "sgd", problem("mlp", 1), monkeypatch)


def test_every_row_has_a_case():
    assert {*CASES, "rotation"} == {*ROWS}  # that is an optimizer alone


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        (name, one)
        for name, row in ROWS.items()
        for one in SCREENED
        if name in CASES and one not in row.optimizers and make_strategy(CASES[name].name).kind != "Stash"
    ],
)
def test_a_row_says_which_optimizers_it_is_not_defined_for(name, optimizer):
    stages, batches = problem("mlp", 1)
    kind = type(OPTIMIZERS[optimizer](stages[0].parameters(), lr=1.0)).__name__
    with pytest.raises(UserError, match=f"and the optimizer is {kind}; take") as caught:
        trained(CASES[name], optimizer, stages, batches, lambda t: 0.01)
    assert len(str(caught.value).splitlines()) == 1


def train(name, law="pipedream", accumulate=1, **momentum):
    stages, batches = problem("mlp", 1)
    engine = PipelineEngine(stages, Delays.by_law(law, 6), make_strategy(name), accumulate=accumulate)
    optimizer = torch.optim.SGD([p for s in stages for p in s.parameters()], lr=0.1, **momentum)
    engine.train_step(*batches[0], F.cross_entropy, optimizer)


def amsgrad():
    stages, batches = problem("mlp", 1)
    engine = PipelineEngine(stages, Delays.pipedream(6), make_strategy("pipeoptim"))
    optimizer = torch.optim.AdamW([p for s in stages for p in s.parameters()], amsgrad=True)
    engine.train_step(*batches[0], F.cross_entropy, optimizer)


REFUSED = {
    "no momentum": (partial(train, "spectrain"), "SpecTrain is made from SGD's momentum buffer, and momentum is 0"),
    "Nesterov's form": (
        partial(train, "spike", momentum=0.9, nesterov=True),
        "defined for plain momentum; .* nesterov",
    ),
    "dampening": (partial(train, "spike", momentum=0.9, dampening=0.1), "defined for plain momentum; .* dampening"),
    "the law 2S": (
        partial(train, "xpipe-6", "layerpipe2", momentum=0.9),
        "XPipe of 6 stages .* up to 5, .*pipedream",
    ),
    "XPipe accumulated": (partial(train, "xpipe-6", accumulate=2, momentum=0.9), "made for one lag, .*accumulate=2"),
    "a gradient accumulated": (partial(train, "dc-asgd-2", accumulate=2), "'dc-asgd-2' looks at the gradient of each"),
    "no stages": (partial(make_strategy, "xpipe-1"), "stages of XPipe is 1; give an integer >= 2"),
    "half an update": (partial(make_strategy, "t1-2.5"), "updates is 2.5; give an integer >= 1"),
    "no lambda": (partial(make_strategy, "dc-asgd-0"), "lambda of DC-ASGD is 0; give a positive number"),
    "no number": (partial(make_strategy, "t1"), "'t1' needs its updates; give the number, as in t1-2"),
    "a word": (partial(make_strategy, "t1-many"), "'t1-many' has updates 'many'; give a number"),
    "infinite": (partial(make_strategy, "dc-asgd-inf"), "'dc-asgd-inf' has lambda_0 'inf'; give a number"),
    "two predictions": (partial(make_strategy, "spectrain+pipeoptim"), "both choose the weights of the forward pass"),
    "the wrong order": (
        partial(make_strategy, "t2+t1-9"),
        "the first takes in the update that the second then changes",
    ),
    "unknown": (partial(make_strategy, "spectrain+nothing"), "unknown strategy 'nothing'"),
    "a dimension": (
        lambda: rotation.BasisRotation([nn.Parameter(torch.ones(2))], 0.1),
        "rotates matrices, and a param",
    ),
    "momentum 1": (lambda: LookAhead([nn.Parameter(torch.ones(2))], 0.1, 1.0), "momentum of LookAhead is 1.0; give"),
    "amsgrad": (amsgrad, "PipeOptim is not defined for amsgrad; leave it out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_defined_is_refused_in_one_line(name):
    work, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        work()
    assert len(str(caught.value).splitlines()) == 1


def test_copies_per_rank():
    """Beside the latest weights and the optimizer's state, of a stage with delay 3."""
    found = {name: make_strategy(case.name).copies(3) for name, case in CASES.items()}
    none = dict.fromkeys(("paci", "t1", "spike"), 0)
    one = dict.fromkeys(("spectrain", "pipeoptim", "t2"), 1)
    more = dict.fromkeys(("feedback", "feedback-d", "last-update", "dc-asgd", "gap-aware"), 4)
    stashing = dict.fromkeys(("look-ahead", "nadam", "dc-asgd-fixed", "2bw", "amdp"), 3)
    assert found == none | one | more | stashing | {"xpipe": 2}
    assert all(make_strategy(case.name).copies(0) == 0 for case in CASES.values())


def test_names_are_told_for_readers():
    row = find_strategy("t1-700+t2")
    assert (row.label, row.family) == ("PipeMare T1 + PipeMare T2", "field")
    assert row.description == "PipeMare T1 + PipeMare T2 (arXiv 1910.05124)"
    assert find_strategy("t2-warm").warm


def test_the_docs_list_every_row_with_what_it_touches():
    page = Path(__file__).parents[3] / "docs" / "theory" / "mitigations.md"
    lines = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    told = {line[1].strip("`"): line[4] for line in lines if len(line) == 6}
    found = {row_of(name)[0].label: touches for name, touches in told.items() if row_of(name)}
    assert found == {row.label: row.touches for row in ROWS.values()}
