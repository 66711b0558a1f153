"""What is measured is what a naive pipeline in float64 gives, and the training is as if nobody had measured."""

import copy
import itertools
from statistics import mean

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from experiments.predicting.measure import Measurement, along, compare, measure
from experiments.predicting.signs import predictors
from layerpipe2 import Delays, PipelinedModule, UserError
from layerpipe2.engine.replay import Replay
from layerpipe2.lab.runs.config import RunConfig
from tests.advice import advised
from tests.engine.training import assert_bit_equal, fit, module
from tests.reference import _cross_entropy, _flat, _of, backward_layer, forward_layer, make_method
from tests.sampling import sampled

STRATEGIES = ["latest", "ema-span", "pair"]
MOMENTS = range(12, 32, 2)


def dense() -> list[nn.Sequential]:
    units = [nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()) for _ in range(3)]
    return [*units, nn.Sequential(nn.Linear(6, 4))]


def normalised() -> list[nn.Sequential]:
    units = [nn.Sequential(nn.Conv2d(c, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()) for c in (1, 3, 3)]
    return [*units, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4))]


SHAPES = {dense: (6,), normalised: (1, 4, 4)}


def mini_batches(make, number=32):
    generator = torch.Generator().manual_seed(1)
    shape = SHAPES[make]
    return [
        (torch.randn(8, *shape, generator=generator).double(), torch.randint(4, (8,), generator=generator))
        for _ in range(number)
    ]


def pipeline(make, **options) -> PipelinedModule:
    torch.manual_seed(2)
    options = {"optimizer": lambda p: torch.optim.SGD(p, 0.2, momentum=0.5)} | options
    return PipelinedModule([stage.double() for stage in make()], "layerpipe2", "stash", **options)


def measured(model, batches, measurement, epochs=-1, callbacks=()):
    return along(model, DataLoader(batches, batch_size=None), measurement, epochs, others=callbacks)


class Past(Callback):
    """W(t) of every stage."""

    def __init__(self):
        self.weights = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights.append(weights_of(pl_module))


def weights_of(model):
    return [{n: p.detach().clone() for n, p in stage.named_parameters()} for stage in model.stages]


def naive_gradients(stages, delays, past, batch, t, strategy):
    """Forward at W(t - d), backward at what the strategy recalls: every layer by hand."""
    x, y = batch
    kept = []
    for layers, d, k in zip(stages, delays, range(len(stages)), strict=True):
        w, memories = past[max(0, t - d)][k], []
        for i, layer in enumerate(layers):
            x, memory = forward_layer(copy.deepcopy(layer), _of(w, i), x)
            memories.append(memory)
        kept.append(memories)
    _, gy = _cross_entropy(x, y)
    found = {}
    for k in reversed(range(len(stages))):
        w, gradients = recalled(delays[k], [weights[k] for weights in past], t, strategy), {}
        for i in reversed(range(len(stages[k]))):
            gy, g = backward_layer(stages[k][i], _of(w, i), kept[k][i], gy)
            gradients |= {f"{i}.{name}": value for name, value in g.items()}
        found[k] = _flat({name: gradients[name] for name in w})
    return found


def recalled(delay, past, t, strategy):
    method = make_method(strategy, delay, past[0])
    for j in range(t):
        method.note_update(past[j], past[j + 1], {})
    return method.backward_weights(past[max(0, t - delay)], t)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@advised
@pytest.mark.parametrize("make", [dense, normalised])
def test_every_number_is_that_of_a_naive_pipeline(make):
    model, batches, past = pipeline(make), mini_batches(make), Past()
    measurement = Measurement(STRATEGIES, steps=20)
    advice = measured(model, batches, measurement, 2, [past])
    delays, weights = model.delays.per_stage, [*past.weights, weights_of(model)]
    assert (advice.updates, [row.stage for row in advice.stages]) == (20, [0, 1, 2])

    flat = [[_flat(stage) for stage in moment] for moment in weights]
    gradients = {
        name: [naive_gradients(model.stages, delays, weights, batches[t], t, name) for t in MOMENTS]
        for name in ["stash", *STRATEGIES]
    }
    for row in advice.stages:
        k, d = row.stage, row.delay
        w = [moment[k] for moment in flat]
        assert row.drift == pytest.approx(
            mean(float((w[t] - w[t - d]).norm() / w[t - d].norm()) for t in MOMENTS), rel=1e-9
        )
        u = [a - b for a, b in itertools.pairwise(w[13:])]
        assert row.update_correlation == pytest.approx(mean(map(cosine, u, u[1:])), rel=1e-9)
        for name in STRATEGIES:
            quality, pairs = row.strategies[name], list(zip(gradients[name], gradients["stash"], strict=True))
            assert quality.alignment == pytest.approx(mean(cosine(g[k], e[k]) for g, e in pairs), rel=1e-9)
            ratio = mean(float(g[k].norm() / e[k].norm()) for g, e in pairs)
            difference = mean(float((g[k] - e[k]).norm() / e[k].norm()) for g, e in pairs)
            assert (quality.norm_ratio, quality.gradient_error) == pytest.approx((ratio, difference), rel=1e-9)
            errors = []
            for t in [*MOMENTS, 32]:
                found = _flat(recalled(d, [m[k] for m in weights], t, name))
                errors.append(float((found - w[t - d]).norm() / (w[t] - w[t - d]).norm()))
            assert quality.error == pytest.approx(mean(errors), rel=1e-6)
    assert advice.stages[0].strategies["latest"].alignment < 0.9995
    values = predictors(advice)
    assert values["alignment.latest.worst"] == min(row.strategies["latest"].alignment for row in advice.stages)
    assert values["drift.worst"] == max(row.drift for row in advice.stages)
    sizes = [row.parameters for row in advice.stages]
    weighted = sum(n * row.drift for n, row in zip(sizes, advice.stages, strict=True)) / sum(sizes)
    assert values["drift"] == pytest.approx(weighted, rel=1e-12)


OPTIONS = {
    "default": {},
    "streams": {"stage_seed": 4},
    "bf16": {"precision": "bf16"},
    "adamw": {"optimizer": "adamw"},
    "clipped": {"gradient_clip_norm": 0.1},
    "drain": {"drain": True, "delays": Delays.custom([2, 1, 1, 0])},
}


@pytest.mark.parametrize("options", sampled([*OPTIONS], ["bf16", "drain"]))
def test_the_training_is_bit_for_bit_that_without_measurement(options):
    """With dropout and BatchNorm, shuffled data, and the generator's state at the end."""
    measurement = Measurement(["latest", "ema-span", "ema-lsq-raw"], steps=1000)
    measurement.every_n_steps = 1
    measured = fit(module("stash", **OPTIONS[options]), 4, callbacks=[measurement], enable_checkpointing=False)
    after = torch.get_rng_state()
    assert measurement.inside in (4 * 2, 12)  # of 4 x 6 updates, without the first 2 d
    assert_bit_equal(measured.state_dict(), fit(module("stash", **OPTIONS[options]), 4).state_dict())
    assert torch.equal(after, torch.get_rng_state())


class Gradients(Callback):
    """The replay's exact gradients before each step, and those that the training then has."""

    def __init__(self):
        self.pairs = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        state = torch.get_rng_state()
        self.exact = Replay(pl_module, *batch).gradients()
        torch.set_rng_state(state)

    def on_after_backward(self, trainer, pl_module):
        for k, gradient in self.exact.items():
            layout = pl_module.engine.delayed[k].layout
            self.pairs.append((gradient, torch.cat([p.grad.flatten().double() for p in layout.parameters])))


@pytest.mark.parametrize("options", [{}, {"stage_seed": 4}, {"precision": "bf16"}])
def test_the_exact_gradient_is_the_one_that_training_gets_dropout_included(options):
    gradients = Gradients()
    fit(module("stash", **options), 2, callbacks=[gradients], enable_checkpointing=False)
    assert len(gradients.pairs) == 3 * 12
    assert all(torch.equal(a, b) for a, b in gradients.pairs)


@advised
def test_the_warm_up_comes_before_the_measurement_and_a_loss_that_rises_is_diverging_before_it_overflows():
    soon, late = (Measurement(["latest"], steps=20, warmup=updates) for updates in (0, 25))
    batches = mini_batches(dense, 7)
    found = [measured(pipeline(dense), batches, measurement) for measurement in (soon, late)]
    assert found[0] != found[1]
    assert found[0].diverged is None
    assert (soon.updates, late.updates) == (12 + 20, 25 + 20)
    uphill = pipeline(dense, optimizer=lambda p: torch.optim.SGD(p, 0.15, maximize=True))
    assert "its loss has risen from" in measured(uphill, batches, Measurement(["latest"], 40)).diverged


def test_gradients_that_overflow_point_nowhere():
    exact = torch.tensor([3.0, 4.0])
    assert float(compare(torch.tensor([torch.inf, 1.0]), exact)["alignment"]) == 0
    assert compare(exact, torch.zeros(2))["alignment"].isnan()
    assert compare(2 * exact, exact) == {"alignment": 1, "norm_ratio": 2, "gradient_error": 1}


SMALL = RunConfig(group_size=3, lr=1e-3)


def test_a_run_that_diverges_is_measured_until_then():
    signs = measure(SMALL.copy_with(group_size=2, lr=30), ["ema-span"], steps=5)
    assert signs.diverged.startswith("epoch 0, mini-batch ")
    assert signs.stability is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMALL.copy_with(max_steps=8), "ended after 8 updates, and only after 8 .twice"),
        (SMALL.copy_with(max_steps=8, warmup_epochs=1.0), "and only after 17 "),
        (RunConfig(drain=True), "drain empties the pipeline after 17 updates"),
    ],
)
def test_what_ends_too_early_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        measure(config, [])
