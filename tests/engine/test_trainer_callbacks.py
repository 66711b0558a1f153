"""Lightning's callbacks beside a pipeline: what is refused, what is harmless, which hooks are called."""

import copy
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from layerpipe2 import Delays, UserError
from layerpipe2.engine.epoch import AuditSteps
from layerpipe2.engine.trainer_callbacks import GRADIENT_HOOKS
from tests.engine.training import assert_bit_equal, data, fit, module, trainer

REFUSED = {
    "StochasticWeightAveraging": lambda: StochasticWeightAveraging(1e-3, swa_epoch_start=1),
    "GradientAccumulationScheduler": lambda: GradientAccumulationScheduler({0: 2}),
    "LearningRateFinder": lambda: LearningRateFinder(num_training_steps=5),
    "BatchSizeFinder": lambda: BatchSizeFinder(max_trials=2),
    "ModelPruning": lambda: ModelPruning("l1_unstructured", amount=0.5),
}
HARMLESS = (
    lambda: Timer(timedelta(hours=1)),
    RichProgressBar,
    LearningRateMonitor,
    lambda: DeviceStatsMonitor(cpu_stats=True),
    lambda: EarlyStopping("val_loss", patience=9),
)


def run(callback, tmp_path, strategy="ema-window", **options):
    options = {"enable_checkpointing": False, "logger": CSVLogger(tmp_path), "enable_progress_bar": True} | options
    return fit(module(strategy), 3, callbacks=[callback], log_every_n_steps=1, **options)


class Loaders(pl.LightningDataModule):
    """The batch-size finder wants its data from a data module."""

    batch_size = 8

    def train_dataloader(self):
        return data()

    val_dataloader = train_dataloader


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(UserError, match=f"{name} doesn't work with a pipeline: it "):
        trainer(1, callbacks=[REFUSED[name]()]).fit(module("latest"), Loaders())


@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
def test_harmless(tmp_path):
    quiet = {"enable_checkpointing": False, "logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    callbacks = [make() for make in HARMLESS]
    watched = fit(module("ema-window"), 3, callbacks=callbacks, enable_progress_bar=True, **quiet)
    assert_bit_equal(watched.state_dict(), fit(module("ema-window"), 3).state_dict())


class Noting(Callback):
    """Notes the hooks that are called, and the norm of all gradients."""

    def __init__(self):
        self.calls = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.calls.append(("on_before_zero_grad", isinstance(optimizer, torch.optim.Optimizer)))

    def on_before_backward(self, trainer, pl_module, loss):
        self.calls.append(("on_before_backward", loss.requires_grad))

    def on_after_backward(self, trainer, pl_module):
        self.calls.append(("on_after_backward", all(p.grad is not None for p in pl_module.parameters())))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.calls.append(("on_before_optimizer_step", True))


def test_hooks_are_called_as_lightning_does(tmp_path):
    noting = Noting()
    assert_bit_equal(run(noting, tmp_path).state_dict(), fit(module("ema-window"), 3).state_dict())
    assert noting.calls == [(name, True) for name in GRADIENT_HOOKS] * 18


def test_hooks_of_the_module_are_called(tmp_path):
    calls = []
    model = module("ema-window")
    methods = {name: lambda self, *args, name=name: calls.append(name) for name in GRADIENT_HOOKS}
    model.__class__ = type("Noting", (type(model),), methods)
    fit(model, 1)
    assert calls == [*GRADIENT_HOOKS] * 6


class Clipping(Callback):
    def on_after_backward(self, trainer, pl_module):
        for stage in pl_module.stages:
            nn.utils.clip_grad_norm_(stage.parameters(), 0.05)


class LateClipping(Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        Clipping().on_after_backward(trainer, pl_module)


def test_averages_of_gradients_see_what_is_applied(tmp_path):
    clipped = fit(module("ema-window-raw", gradient_clip_norm=0.05), 3)
    assert_bit_equal(run(Clipping(), tmp_path, "ema-window-raw").state_dict(), clipped.state_dict())
    with pytest.raises(UserError, match="gradients were changed within the optimizer's step"):
        run(LateClipping(), tmp_path, "ema-window-raw")


class Late(Callback):
    """Does something to the optimizer right before its step, from the second one on, or in the step ``only``."""

    def __init__(self, change, only=None):
        self.change, self.only = change, only

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step and self.only in (None, trainer.global_step):
            self.change(optimizer)


def halve_rate(optimizer, *_):
    optimizer.param_groups[0]["lr"] = 0.02


def clamp_unseen(optimizer, *_):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad.data.clamp_(-1e-3, 1e-3)


def clamp(optimizer, *_):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad.clamp_(-1e-3, 1e-3)


RATE = "a learning rate was changed between a mini-batch's forward pass and its update"
GRADIENT = "gradients were changed within the optimizer's step"


def test_a_change_of_gradients_that_autograd_counts_is_found_at_every_step(tmp_path):
    with pytest.raises(UserError, match=GRADIENT):
        run(Late(clamp, only=5), tmp_path, "ema-window-raw")


@pytest.mark.parametrize(("change", "message"), [(halve_rate, RATE), (clamp_unseen, GRADIENT)])
@pytest.mark.parametrize("by_hook", [False, True])
def test_what_an_average_of_gradients_has_noted_must_hold_in_the_step(change, message, by_hook, tmp_path):
    model, callback = module("ema-window-raw"), [] if by_hook else [Late(change)]
    if by_hook:
        make = model.make_optimizer

        def hooked(parameters):
            optimizer = make(parameters)
            optimizer.register_step_pre_hook(change)
            return optimizer

        model.make_optimizer = hooked
    with pytest.raises(UserError, match=message):
        fit(model, 3, callbacks=callback)


class OldStyle(torch.optim.SGD):
    """Adds the weight decay to the gradient, unseen by autograd, as optimizers once did; its rate ends lower."""

    def step(self, closure=None):
        if closure is not None:
            closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.data.add_(p.data, alpha=0.1)
        super().step()
        self.param_groups[0]["lr"] *= 0.9


def test_an_optimizers_own_step_may_change_them():
    model = module("ema-window-raw")
    model.make_optimizer = lambda parameters: OldStyle(parameters, lr=0.01)
    fit(model, 2)


class Changing(Callback):
    """Does something to the network in the second epoch, once at one hook; through ``.data`` after every mini-batch."""

    def __init__(self, change, when):
        self.change, self.when, self.done = change, when, False

    def __getattribute__(self, name):
        if name.startswith("on_") and name == object.__getattribute__(self, "when"):
            return self.at
        return object.__getattribute__(self, name)

    def at(self, trainer, pl_module, *_):
        if trainer.current_epoch == 1 and not self.done:
            self.done = self.when != "on_train_batch_end" or self.change is not CHANGES["data"][0]
            self.change(pl_module.stages[1])


def replaced(stage):
    stage[0][0].weight = nn.Parameter(stage[0][0].weight.detach().clone())


CHANGES = {
    "in place": (lambda s: s[0][0].weight.detach().clamp_(-0.01, 0.01), "stage 1: weights were changed between two"),
    "data": (lambda s: s[0][0].weight.data.clamp_(-0.01, 0.01), "stage 1: weights were changed between two"),
    "initialized": (lambda s: nn.init.normal_(s[0][0].weight.data), "stage 1: weights were changed between two"),
    "replaced": (replaced, "a parameter or layer was added, replaced or removed"),
    "added layer": (lambda s: s.append(nn.Conv2d(4, 4, 1)), "a parameter or layer was added, replaced or removed"),
    "added parameter": (
        lambda s: s[0][0].register_parameter("extra", nn.Parameter(torch.ones(1))),
        "a parameter or layer was added, replaced or removed",
    ),
    "activation replaced": (
        lambda s: s[0].__setitem__(2, nn.Tanh()),
        "a parameter or layer was added, replaced or removed",
    ),
    "removed": (lambda s: s.__delitem__(0), "a parameter or layer was added, replaced or removed"),
}


@pytest.mark.parametrize(
    ("change", "when"),
    [
        *((change, "on_train_epoch_end") for change in CHANGES),
        *(("data", when) for when in ("on_train_epoch_start", "on_train_batch_end", "on_validation_end")),
        *((change, "on_train_batch_end") for change in ("in place", "replaced", "added layer")),
    ],
)
def test_changes_between_updates_are_refused(change, when, tmp_path):
    do, message = CHANGES[change]
    with pytest.raises(UserError, match=message):
        run(Changing(do, when), tmp_path)


@pytest.mark.parametrize("change", ["data", "replaced"])
def test_a_change_after_the_last_mini_batch_is_refused(change):
    do, message = CHANGES[change]

    class Last(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 5:
                do(pl_module.stages[1])

    with pytest.raises(UserError, match=message):
        fit(module("ema-window"), 1, callbacks=[Last()], enable_checkpointing=False)


def test_a_layer_replaced_between_two_epochs_is_refused_before_the_next_update():
    do, message = CHANGES["activation replaced"]
    model = module("ema-window")
    with pytest.raises(UserError, match=message):
        fit(model, 2, callbacks=[Changing(do, "on_train_epoch_start")], enable_checkpointing=False)
    assert model.trainer.global_step == len(data())


def test_a_drained_pipeline_takes_new_weights_between_two_epochs():
    class Halving(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            for parameter in pl_module.parameters():
                parameter.data.mul_(0.5)

    halved = fit(module("ema-window", drain=True), 1)
    with torch.no_grad():
        for parameter in halved.parameters():
            parameter.mul_(0.5)
    drained = fit(module("ema-window", drain=True), 1, callbacks=[Halving()], enable_checkpointing=False)
    assert_bit_equal(drained.state_dict(), halved.state_dict())
    fit(module("ema-window", drain=True), 2, callbacks=[Halving()], enable_checkpointing=False)


def test_a_checkpoint_of_changed_weights_is_refused(tmp_path):
    class Saving(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 3:
                pl_module.stages[1][0][0].weight.detach().mul_(0.5)
                trainer.save_checkpoint(tmp_path / "changed.ckpt")

    with pytest.raises(UserError, match="stage 1: weights were changed between two updates"):
        run(Saving(), tmp_path)
    assert not (tmp_path / "changed.ckpt").exists()


def test_an_audit_in_the_middle_of_an_epoch(monkeypatch):
    """What begins after the first two steps is found at the drawn one."""

    class Late(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return F.linear(x, self.weight if self.calls <= 2 else 0.5 * self.weight, self.bias)

    model = module("latest")
    model.stages[3][0][1] = Late(4 * 64, 5)
    model.delays = Delays.custom([6, 4, 2, 2])
    fit(copy.deepcopy(model), 1)  # a mini-batch that is not audited may do so: that is the limit
    draw = AuditSteps.start_epoch
    monkeypatch.setattr(
        AuditSteps, "start_epoch", lambda self, epoch, batches: (draw(self, 0, 300), setattr(self, "_drawn", 4))
    )
    with pytest.raises(UserError, match="stage 3 saves a tensor made from its weights"):
        fit(model, 1)


@pytest.mark.parametrize(("batches", "epochs"), [(6, 2000), (199, 100), (200, 50), (5000, 50), (float("inf"), 50)])
def test_how_often_a_step_is_drawn(batches, epochs):
    steps, length = AuditSteps(), int(min(batches, 1000))
    drawn = []
    for epoch in range(epochs):
        steps.start_epoch(epoch, batches)
        assert steps.due, "the first one"
        for steps.step in range(1, length):
            drawn += [steps.step] if steps.due else []
    if batches >= 200:
        assert len(drawn) == epochs
        assert len(set(drawn)) > epochs / 2
    else:
        assert epochs * (batches - 1) / 400 < len(drawn) < epochs * (batches - 1) / 100


def test_a_copied_module_trains_as_the_original():
    model = module("ema-window")
    copied = copy.deepcopy(model)
    assert_bit_equal(fit(model, 2).state_dict(), fit(copied, 2).state_dict())


@pytest.mark.parametrize("strategy", ["stash", "ema-window"])
def test_a_module_that_was_trained_is_averaged_in_its_next_training(strategy):
    class Copying(Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            self.copied = copy.deepcopy(pl_module)

    model, expected, copying = module(strategy), module(strategy), Copying()
    for one, callbacks in ((model, [EMAWeightAveraging(decay=0.0), copying]), (expected, [])):
        fit(one, 1, enable_checkpointing=False)
        fit(one, 2, callbacks=callbacks, enable_checkpointing=False)
    assert_bit_equal(model.state_dict(), expected.state_dict())
    with pytest.raises(UserError, match="the pipeline is laid out when training starts"):
        _ = copying.copied.engine
