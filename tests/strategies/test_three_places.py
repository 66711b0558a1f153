"""Three strategies of the literature, as a user would add them: on the forward pass, on the gradient, on the update.

Each is held here against its paper's equation on the clock-driven machine; tests/programs draws them and their chains
with other optimizers, in two processes and over a resume.
"""

import copy
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerpipe2 import Delays, UserError, make_strategy
from layerpipe2.engine.step import PipelineEngine
from layerpipe2.strategies import OptimizerView, State, Strategy, chain
from tests.reference import Method, Weights, run_clocked
from tests.test_reference import OPTIMIZERS, problem


@dataclass(frozen=True)
class Prediction(Strategy):
    """SpecTrain: a forward pass reads ``W - lr d v``, where momentum alone would lead in ``d`` updates."""

    @property
    def constants(self) -> tuple[str, ...]:
        return ("delay",)

    def init(self, weights: Tensor, delay: int) -> State:
        return {"delay": torch.full((1,), delay, device=weights.device)}

    def forward(self, state: State, latest: Tensor, optimizer: OptimizerView) -> Tensor:
        return latest - optimizer.setting("lr") * state["delay"] * optimizer.state("momentum_buffer")


@dataclass(frozen=True)
class DelayCompensation(Strategy):
    """DC-ASGD, adaptive: the gradient at ``W`` to first order, ``g + s / sqrt(E[g^2]) g g (W - used)``."""

    scale: float = 0.2

    @property
    def constants(self) -> tuple[str, ...]:
        return ("scale",)

    def init(self, weights: Tensor, delay: int) -> State:
        return {"square": torch.zeros_like(weights), "scale": weights.new_full((1,), self.scale)}

    def gradient(self, state: State, gradient: Tensor, latest: Tensor, used: Tensor) -> Tensor:
        state["square"].lerp_(gradient**2, 0.05)
        return gradient + state["scale"] / (state["square"] + 1e-7).sqrt() * gradient**2 * (latest - used)


@dataclass(frozen=True)
class ErrorFeedback(Strategy):
    """Update-level error feedback: from the second update on, ``u_t + (u_t - u_(t-1))`` is applied for ``u_t``."""

    def init(self, weights: Tensor, delay: int) -> State:
        return {"previous": torch.zeros_like(weights)}

    def update(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        update = before - after
        corrected = after - torch.where(state["step"] > 0, update - state["previous"], 0)
        state["previous"].copy_(update)
        return corrected


@dataclass
class Remembering(Method):
    """A method of the reference that needs no row of the table."""

    kept: Weights = field(default_factory=dict)

    def backward_weights(self, used_forward: Weights, batch: int) -> Weights:
        return used_forward

    def note_update(self, before: Weights, after: Weights, scaled_gradient: Weights) -> Weights:
        self.past.append(after)
        return after


class ReferencePrediction(Remembering):
    def forward_weights(self, latest, optimizer):
        (group,) = optimizer.optimizer.param_groups
        found = optimizer.buffers("momentum_buffer")
        return {name: w - group["lr"] * self.delay * v for (name, w), v in zip(latest.items(), found, strict=True)}


class ReferenceCompensation(Remembering):
    def optimizers_gradient(self, gradients, used_forward):
        if not self.delay:
            return gradients
        latest, changed = self.past[-1], {}
        for name, w in latest.items():
            g = gradients.get(name, torch.zeros_like(w))  # that of a frozen weight is zero
            self.kept[name] = 0.95 * self.kept.get(name, 0.0) + 0.05 * g * g
            changed[name] = g + 0.2 * (self.kept[name] + 1e-7) ** -0.5 * g * g * (w - used_forward[name])
        return {name: changed[name] for name in gradients}


class ReferenceFeedback(Remembering):
    def note_update(self, before, after, scaled_gradient):
        update = {name: before[name] - after[name] for name in after}
        if self.delay and self.kept:
            after = {name: w - (update[name] - self.kept[name]) for name, w in after.items()}
        self.kept = update
        return super().note_update(before, after, scaled_gradient)


CASES = {
    "prediction": (Prediction(), ReferencePrediction),
    "compensation": (DelayCompensation(), ReferenceCompensation),
    "feedback": (ErrorFeedback(), ReferenceFeedback),
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
            (Prediction(), Prediction()),
            "Prediction and Prediction can't be chained so: both choose .* of the forward pass",
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
    three = Prediction(), DelayCompensation(), ErrorFeedback()
    chains = chain(ErrorFeedback(), make_strategy("ema-span")), chain(*three[:2], make_strategy("latest"))
    copies = [strategy.copies(5) for strategy in (*three, *chains)]
    assert copies == [5, 6, 6, 2, 6]
