"""Lightning's callbacks beside a pipeline: what is refused, what is harmless, which hooks are called."""

import copy
from contextlib import nullcontext
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
    LambdaCallback,
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


def run(callback, tmp_path, strategy="ema-window", epochs=3, **options):
    options = {"enable_checkpointing": False, "logger": CSVLogger(tmp_path), "enable_progress_bar": True} | options
    return fit(module(strategy), epochs, callbacks=[callback], log_every_n_steps=1, **options)


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


def test_one_of_the_other_package_is_refused():
    """Whose classes have the same methods, and are others."""
    foreign = type("Foreign", (), {name: value for name, value in vars(Callback).items() if name[:2] != "__"})
    with pytest.raises(
        UserError, match=r"Foreign is no callback of pytorch_lightning, as the Trainer is; take one of it"
    ):
        trainer(1, callbacks=[foreign()]).fit(module("latest"), data(), data())


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


def clipping(hook):
    def clip(trainer, pl_module, *_):
        for stage in pl_module.stages:
            nn.utils.clip_grad_norm_(stage.parameters(), 0.05)

    return type("Clipping", (Callback,), {hook: lambda self, *args: clip(*args)})()


def test_averages_of_gradients_see_what_is_applied(tmp_path):
    clipped = fit(module("ema-window-raw", gradient_clip_norm=0.05), 3)
    assert_bit_equal(run(clipping("on_after_backward"), tmp_path, "ema-window-raw").state_dict(), clipped.state_dict())


def halve_rate(optimizer, *_):
    optimizer.param_groups[0]["lr"] = 0.02


def clamp_unseen(optimizer, *_):
    for p in optimizer.param_groups[0]["params"]:
        p.grad.data.clamp_(-1e-3, 1e-3)


def clamp(optimizer, *_):
    for p in optimizer.param_groups[0]["params"]:
        p.grad.clamp_(-1e-3, 1e-3)


def before_the_step(change, steps):
    """The change right before these steps of the optimizer."""

    def do(trainer, pl_module, optimizer):
        if trainer.global_step in steps:
            change(optimizer)

    return LambdaCallback(on_before_optimizer_step=do)


RATE = "a learning rate was changed between a mini-batch's forward pass and its update"
GRADIENT = "gradients were changed within the optimizer's step"


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (clipping("on_before_optimizer_step"), GRADIENT),
        (before_the_step(clamp, [5]), GRADIENT),
        (before_the_step(clamp_unseen, range(1, 18)), GRADIENT),
        (before_the_step(halve_rate, range(1, 18)), RATE),
    ],
)
def test_what_an_average_of_gradients_has_noted_must_hold_in_the_step(callback, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(callback, tmp_path, "ema-window-raw")


class OldStyle(torch.optim.SGD):
    """Adds the weight decay to the gradient, unseen by autograd, as optimizers once did; its rate ends lower."""

    def step(self, closure=None):
        if closure is not None:
            closure()
        for p in self.param_groups[0]["params"]:
            p.grad.data.add_(p.data, alpha=0.1)
        super().step()
        self.param_groups[0]["lr"] *= 0.9


@pytest.mark.parametrize(("change", "message"), [(None, None), (halve_rate, RATE), (clamp_unseen, GRADIENT)])
def test_an_optimizers_own_step_may_change_them_but_no_hook_before_it(change, message):
    def made(parameters):
        optimizer = OldStyle(parameters, lr=0.01)
        if change is not None:
            optimizer.register_step_pre_hook(change)
        return optimizer

    model = module("ema-window-raw")
    model.make_optimizer = made
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        fit(model, 2)


CHANGED = "stage 1: weights were changed between two updates"
REPLACED = "a parameter or layer was added, replaced or removed"
CHANGES = {
    "in place": (lambda s: s[0][0].weight.detach().clamp_(-0.01, 0.01), CHANGED),
    "data": (lambda s: s[0][0].weight.data.clamp_(-0.01, 0.01), CHANGED),
    "initialized": (lambda s: nn.init.normal_(s[0][0].weight.data), CHANGED),
    "replaced": (lambda s: setattr(s[0][0], "weight", nn.Parameter(s[0][0].weight.detach().clone())), REPLACED),
    "added layer": (lambda s: s.append(nn.Conv2d(4, 4, 1)), REPLACED),
    "added parameter": (lambda s: s[0][0].register_parameter("extra", nn.Parameter(torch.ones(1))), REPLACED),
    "activation replaced": (lambda s: s[0].__setitem__(2, nn.Tanh()), REPLACED),
    "removed": (lambda s: s.__delitem__(0), REPLACED),
}


def changing(change, hook, batches):
    """The change in the second epoch, at its mini-batches of these numbers where the hook is one of mini-batches."""

    def do(trainer, pl_module, *rest):
        batch = rest[2] if hook == "on_train_batch_end" else batches[0]
        if trainer.current_epoch == 1 and batch in batches:
            CHANGES[change][0](pl_module.stages[1])

    return LambdaCallback(**{hook: do})


@pytest.mark.parametrize(
    ("change", "hook", "batches"),
    [
        *((change, "on_train_epoch_end", [0]) for change in CHANGES),
        *(("data", hook, [0]) for hook in ("on_train_epoch_start", "on_validation_end")),
        ("data", "on_train_batch_end", range(6)),  # such changes are found from time to time
        *((change, "on_train_batch_end", [0]) for change in ("in place", "replaced", "added layer")),
        *((change, "on_train_batch_end", [5]) for change in ("data", "replaced")),
    ],
)
def test_changes_between_updates_are_refused(change, hook, batches, tmp_path):
    with pytest.raises(UserError, match=CHANGES[change][1]):
        run(changing(change, hook, batches), tmp_path, epochs=2 if batches == [5] else 3)


def test_a_layer_replaced_between_two_epochs_is_refused_before_the_next_update(tmp_path):
    model = module("ema-window")
    with pytest.raises(UserError, match=REPLACED):
        fit(model, 2, callbacks=[changing("activation replaced", "on_train_epoch_start", [0])])
    assert model.trainer.global_step == len(data())


def test_a_drained_pipeline_takes_new_weights_between_two_epochs():
    @torch.no_grad()
    def halve(trainer, pl_module):
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.5)

    halved = fit(module("ema-window", drain=True), 1)
    halve(None, halved)
    for epochs in (1, 2):
        drained = fit(module("ema-window", drain=True), epochs, callbacks=[LambdaCallback(on_train_epoch_end=halve)])
        assert (epochs == 2) != torch.equal(*(next(one.parameters()) for one in (drained, halved)))


def test_a_checkpoint_of_changed_weights_is_refused(tmp_path):
    def save(trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3:
            pl_module.stages[1][0][0].weight.detach().mul_(0.5)
            trainer.save_checkpoint(tmp_path / "changed.ckpt")

    with pytest.raises(UserError, match=CHANGED):
        run(LambdaCallback(on_train_batch_end=save), tmp_path)
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
