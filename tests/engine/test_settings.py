"""What a module can't be made of, or can't train with: one line that says what is allowed, before any training."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError

from layerpipe2 import Delays, PipelinedModule, UserError, make_strategy, partition
from layerpipe2.engine.optimizer_checks import first_step
from tests.engine.training import OPTIMIZERS, data, fit, module, trainer

LAYER = nn.Linear(4, 4)
SETTINGS = [
    ("precision", ["fp8", None, ["bf16"]], "give one of native, bf16"),
    ("scheduler_interval", ["batch", None, 1], "give 'epoch' or 'step'"),
    ("delays", [None, 2, {}], r"give Delays, such as Delays\.layerpipe2\(4\)"),
    ("strategy", [None, object], "give a strategy's name, such as 'ema-span', or a Strategy"),
    (
        "optimizer",
        [torch.optim.SGD(LAYER.parameters(), lr=0.1), None, "sgd"],
        "give a function that makes it, as lambda",
    ),
    ("loss", [None, 3], "give a function of outputs and targets"),
    ("scheduler", ["cosine", 3], "give a function that makes it from the optimizer, or None"),
    ("accumulate", [0, 1.5, "2", True, 1001], "give an integer from 1 to 1000"),
    ("gradient_clip_norm", [-1.0, 0, float("nan"), float("inf"), "1", True], "give a finite number > 0, or None"),
    ("drain", ["no", 1, None], "give True or False"),
    ("cuda_graph", ["x", 1, None], "give True or False"),
    ("stage_seed", [-1, 1.5, True, "1", 2**32], "give an integer from 0 to 4294967295, or None"),
    ("probe_every", [-1, 1.5, True, "10", None], "give a number of updates, or 0 to measure nothing"),
    ("unfreezes", ["yes", [], 0.5], "give True, False or None"),
    (
        "metrics",
        [{"f1": F.cross_entropy}, {"loss": MeanSquaredError()}, [MeanSquaredError()]],
        "give a mapping from names other than loss and accuracy to metrics of torchmetrics",
    ),
]
KEPT_AS = {"optimizer": "make_optimizer", "scheduler": "make_scheduler", "metrics": "own_metrics"}


def made(**options):
    good = {"delays": Delays.layerpipe2(2), "strategy": make_strategy("stash"), "optimizer": OPTIMIZERS["sgd"]}
    return PipelinedModule(**{"stages": [nn.Linear(4, 4), nn.Linear(4, 4)]} | good | options)


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return F.cross_entropy(outputs * self.temperature, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: value}, rf"{name} is .*; {remedy}") for name, values, remedy in SETTINGS for value in values),
        ({"delays": "pipedrem"}, "unknown delay law 'pipedrem'; did you mean 'pipedream'"),
        ({"delays": [2, 1, 0]}, "there are 3 delays but the network has 2 stages"),
        ({"delays": [2.5, 0]}, r"delay of stage 0 is 2\.5; give an integer from 0 to 10000"),
        ({"strategy": "ema-spam"}, "unknown strategy 'ema-spam'; did you mean 'ema-span'"),
        ({"loss": "cross_entropi"}, r"unknown loss .*; did you mean 'cross_entropy'\?; or give the function"),
        ({"stages": partition([LAYER, copy.copy(LAYER)], 1)}, "parameter '0.weight' of stage 1 is also '0.weight' of"),
        ({"stages": [nn.LazyLinear(4), nn.Linear(4, 4)]}, "stage 0 has a lazy layer, whose shapes aren't known yet"),
        ({"stages": [nn.Linear(4, 4), nn.LazyBatchNorm1d()]}, "stage 1 has a lazy layer, whose shapes aren't"),
        ({"loss": Learned()}, "loss is a Learned with parameters, which belong to no stage"),
    ],
)
def test_refused_when_made(options, message):
    with pytest.raises(UserError, match=f"^{message}") as found:
        made(**options)
    assert str(found.value).isprintable()


@pytest.mark.parametrize(("name", "values", "remedy"), SETTINGS)
def test_refused_when_changed_before_training(name, values, remedy):
    model = module("ema-window")
    fit(model, 1)
    setattr(model, KEPT_AS.get(name, name), values[0])
    with pytest.raises(UserError, match=rf"^{name} is .*; {remedy}"):
        fit(model, 1)


def test_a_frozen_loss_and_one_with_buffers():
    for loss in (Learned().requires_grad_(False), nn.CrossEntropyLoss(weight=torch.ones(5))):
        fit(module("ema-window", loss=loss), 1)


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        (lambda rows: {"x": torch.stack([x for x, _ in rows])}, "mini-batch is a dict; a pipeline takes a pair"),
        (lambda rows: torch.stack([x for x, _ in rows]), "mini-batch is a Tensor; a pipeline takes a pair"),
        (lambda rows: [torch.zeros(1)] * 3, "mini-batch is a list of Tensor, Tensor, Tensor; a pipeline takes a pair"),
        (lambda rows: (rows[0][0], 3), "mini-batch is a tuple of Tensor, int; a pipeline takes a pair"),
    ],
)
def test_what_a_mini_batch_is(collate, message):
    loader = DataLoader(TensorDataset(torch.zeros(8, 1, 8, 8), torch.zeros(8).long()), 4, collate_fn=collate)
    one = trainer(1)
    with pytest.raises(UserError, match=message):
        one.fit(module("latest"), loader, loader)
    with pytest.raises(UserError, match=message):
        one.test(module("latest"), loader, verbose=False)


def test_several_loaders_for_validation():
    with pytest.raises(UserError, match="there are several validation or test data loaders; give one"):
        trainer(1).fit(module("latest"), data(), [data(shuffle=False)] * 2)


class Sharpness(torch.optim.Optimizer):
    """SAM: looks at the gradient of weights nearby, for which it needs the network."""

    def __init__(self, parameters, drops, hides):
        super().__init__(parameters, {"lr": 0.1})
        self.drops, self.hides = drops, hides

    @torch.no_grad()
    def step(self, closure=None):
        if closure is None:
            return
        given = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [p.clone() for p in given]
        for p in given:
            (p.data if self.hides else p).add_(p.grad, alpha=0.05)
        if self.drops:
            self.zero_grad()
        closure()
        for p, old in zip(given, before, strict=True):
            p.copy_(old if p.grad is None else old - 0.1 * p.grad)


def sharpness(**how):
    return lambda parameters: Sharpness(parameters, **{"drops": False, "hides": False} | how)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(20, 4, sparse=True)

    def forward(self, x):
        return self.table((x * 3).long().clamp(0, 19).flatten(1))


def on_meta():
    with torch.device("meta"):
        return {"stages": [nn.Flatten(), nn.Linear(64, 5)]}


FITS = {
    "a loss of each row": (
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        r"loss returns a tensor of shape \[8\]; it must return one",
    ),
    "a loss without a graph": ({"loss": lambda y, t: 1.0}, "loss returns a float; it must return one number"),
    "no scheduler": (
        {"scheduler": lambda optimizer: None},
        r"scheduler returned a NoneType; it must return a torch\.optim scheduler",
    ),
    "LBFGS": ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the network several times per update"),
    "drops gradients": ({"optimizer": sharpness(drops=True)}, "Sharpness evaluates the network again within an update"),
    "moves weights": ({"optimizer": sharpness()}, "Sharpness evaluates the network again within an update"),
    "moves .data": ({"optimizer": sharpness(hides=True)}, "Sharpness evaluates the network again within an update"),
    "differentiable": (
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, differentiable=True)},
        r"SGD\(differentiable=True\) would differentiate its own step, .*; leave differentiable out$",
    ),
    "sparse gradients": (
        {"stages": [Words(), nn.Linear(4, 5)], "gradient_clip_norm": 1.0},
        r"gradient_clip_norm=1.0 can't clip sparse gradients; leave it out",
    ),
    "no numbers": (
        on_meta(),
        r"stages\.1\.weight is on the meta device, so it has no numbers; give it some before fit",
    ),
}


@pytest.mark.parametrize("row", FITS)
def test_refused_when_it_trains(row):
    options, message = FITS[row]
    model = made(**{"stages": [nn.Flatten(), nn.Linear(64, 5)]} | options)
    with pytest.raises(UserError, match=message) as found:
        fit(model, 1)
    assert "\n" not in str(found.value)


def test_a_hook_before_the_step_may_change_weights():
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def clamp(*_):
        weight.data.clamp_(max=0.5)

    optimizer.register_step_pre_hook(clamp)
    weight.grad = torch.ones(1)
    first_step(optimizer)
    assert weight.item() == pytest.approx(0.4)


class Cast(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)


@pytest.mark.parametrize("strategy", ["stash", "ema-window"])
def test_autocast_around_the_training_that_keeps_what_it_cast(strategy):
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(UserError, match="which keeps the weights that it has cast"),
    ):
        fit(module(strategy), 1)


def test_autocast_around_the_training_that_keeps_nothing_is_that_of_each_stage():
    def trained(wrap, around):
        torch.manual_seed(3)
        stages = [wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 5))), wrap(nn.Linear(5, 5))]
        model = made(stages=stages, loss=lambda y, t: F.cross_entropy(y.float(), t))
        with torch.autocast("cpu", torch.bfloat16, enabled=around, cache_enabled=False):
            fit(model, 1)
        return list(model.parameters())

    for a, b in zip(trained(Cast, False), trained(lambda stage: stage, True), strict=True):
        assert torch.equal(a, b)


class Setting(pl.Callback):
    def __init__(self, name, value):
        self.name, self.value = name, value

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            setattr(pl_module, self.name, self.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delays", Delays.none(4)),
        ("strategy", make_strategy("stash")),
        ("gradient_clip_norm", 0.1),
        ("precision", "bf16"),
        ("stage_seed", 3),
        ("accumulate", 2),
        ("own_metrics", {"error": MeanSquaredError()}),
    ],
)
def test_what_has_no_effect_while_training_is_refused(name, value):
    message = rf"^{name} was changed while training \(by a callback\?\), where it has no effect; set it before fit"
    with pytest.raises(UserError, match=message):
        fit(module("ema-window"), 1, callbacks=[Setting(name, value)])
    model = module("ema-window")
    fit(model, 1, callbacks=[Setting(name, getattr(model, name)), Setting("loss", torch.nn.CrossEntropyLoss())])
