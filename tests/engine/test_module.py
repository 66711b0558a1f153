"""PipelinedModule under a real Trainer: equal to plain Lightning without delays, and resumable bit for bit."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerpipe2 import STRATEGIES, Delays, PipelinedModule, UserError, make_history, partition

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


# A resumed run saves into the folder of the run that it continues.
resumes = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")


def network() -> list[nn.Module]:
    def unit(c: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))

    return [unit(1), unit(4), unit(4), nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 5))]


def data(shuffle: bool = True) -> DataLoader:
    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(48, 1, 8, 8, generator=generator), torch.randint(5, (48,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=shuffle)


def step_schedule(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


class Plain(pl.LightningModule):
    """The same training as anybody would write it."""

    def __init__(self, layers, optimizer):
        super().__init__()
        self.stages = nn.ModuleList(layers)
        self.make_optimizer = optimizer

    def training_step(self, batch, batch_idx):
        x, y = batch
        for stage in self.stages:
            x = stage(x)
        return F.cross_entropy(x, y)

    def validation_step(self, batch, batch_idx):
        """Nothing to compare: the trained weights are."""

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": step_schedule(optimizer)}


def trainer(epochs: int, **options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": "callbacks" in options, "num_sanity_val_steps": 0}
    return pl.Trainer(max_epochs=epochs, **(quiet | options))


def module(strategy: str, delays=None, group_size: int = 1, optimizer: str = "sgd", **options) -> PipelinedModule:
    torch.manual_seed(3)
    stages = partition(network(), group_size)
    delays = delays or Delays.layerpipe2(len(stages))
    options = {"scheduler": step_schedule} | options
    return PipelinedModule(stages, delays, make_history(strategy), optimizer=OPTIMIZERS[optimizer], **options)


def fit(model: pl.LightningModule, epochs: int, ckpt_path=None, **options) -> pl.LightningModule:
    torch.manual_seed(5)
    trainer(epochs, **options).fit(model, data(), data(shuffle=False), ckpt_path=ckpt_path)
    return model


def resume(model: pl.LightningModule, epochs: int, save: ModelCheckpoint) -> None:
    continued = ModelCheckpoint(save.dirpath, save_last=True)
    trainer(epochs, callbacks=[continued]).fit(model, data(), data(shuffle=False), ckpt_path=save.last_model_path)


def assert_bit_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", ["stash", "ema-window", "latest"])
@pytest.mark.parametrize("case", ["one stage", "no delay", "all delays zero"])
def test_without_delay_bit_equal_to_plain_lightning(case, strategy, optimizer):
    delays = {"one stage": None, "no delay": Delays.none(4), "all delays zero": Delays.custom([0] * 4)}
    mine = module(strategy, delays[case], 4 if case == "one stage" else 1, optimizer)
    torch.manual_seed(3)
    plain = Plain(network(), OPTIMIZERS[optimizer])
    fit(mine, 3)
    fit(plain, 3)
    theirs = list(plain.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs, strict=True))
    torch.manual_seed(3)
    assert not torch.equal(next(iter(theirs)), next(nn.Sequential(*network()).parameters())), "nothing was trained"


@resumes
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "sequential"] + ["ema-lsq-raw"])
@pytest.mark.parametrize("drain", [False, True])
def test_resume_is_bit_equal_to_the_uninterrupted_run(strategy, drain, tmp_path):
    whole = fit(module(strategy, drain=drain), 4)
    save = ModelCheckpoint(tmp_path, save_last=True)
    fit(module(strategy, drain=drain), 2, callbacks=[save])
    resumed = module(strategy, drain=drain)
    torch.manual_seed(99)
    trainer(4, callbacks=[ModelCheckpoint(tmp_path, save_last=True)]).fit(
        resumed, data(), data(shuffle=False), ckpt_path=save.last_model_path
    )
    assert_bit_equal(resumed.state_dict(), whole.state_dict())
    for mine, theirs in zip(resumed.engine.delayed.values(), whole.engine.delayed.values(), strict=True):
        assert torch.equal(mine.line, theirs.line)
        assert_bit_equal(mine.state, theirs.state)
    assert int(whole.engine.step_count) == (6 if drain else 24)


@resumes
def test_a_checkpoint_of_other_delays_is_refused(tmp_path):
    save = ModelCheckpoint(tmp_path, save_last=True)
    fit(module("stash"), 1, callbacks=[save])
    other = module("stash", Delays.pipedream(4))
    with pytest.raises(UserError, match=r"saved with {'delays': \[6, 4, 2, 0\]}, .* has {'delays': \[3, 2, 1"):
        trainer(2, callbacks=[ModelCheckpoint(tmp_path, save_last=True)]).fit(
            other, data(), data(shuffle=False), ckpt_path=save.last_model_path
        )


@resumes
def test_a_checkpoint_of_another_history_is_refused(tmp_path):
    save = ModelCheckpoint(tmp_path, save_last=True)
    fit(module("ema-window"), 1, callbacks=[save])
    for other in ("stash", "latest", "ema-window-raw", "ema-span"):
        with pytest.raises(UserError, match="resume with the same"):
            trainer(2, callbacks=[ModelCheckpoint(tmp_path, save_last=True)]).fit(
                module(other), data(), data(shuffle=False), ckpt_path=save.last_model_path
            )


@resumes
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization and every_n_train_steps")
def test_drain_after_a_checkpoint_of_the_last_batch(tmp_path):
    whole = fit(module("ema-window", drain=True, scheduler=None), 2)
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=6)
    fit(module("ema-window", drain=True, scheduler=None), 1, callbacks=[save])
    resumed = module("ema-window", drain=True, scheduler=None)
    continued = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=6)
    trainer(2, callbacks=[continued]).fit(resumed, data(), data(shuffle=False), ckpt_path=save.last_model_path)
    assert_bit_equal(resumed.state_dict(), whole.state_dict())


def test_a_checkpoint_that_is_only_tested_leaves_no_trace(tmp_path):
    fresh, tested = fit(module("ema-window"), 1), module("ema-window")
    initial = copy.deepcopy(tested.state_dict())
    save = ModelCheckpoint(tmp_path, save_last=True)
    fit(module("ema-window"), 1, callbacks=[save])
    tester = trainer(1, callbacks=[ModelCheckpoint(tmp_path, save_last=True)])
    tester.test(tested, data(shuffle=False), ckpt_path=save.last_model_path, verbose=False)
    tested.load_state_dict(initial)
    fit(tested, 1)
    assert_bit_equal(tested.state_dict(), fresh.state_dict())
    assert int(tested.engine.step_count) == 6


def test_drain_refills_the_pipeline_every_epoch():
    drained = fit(module("stash", drain=True), 2)
    flowing = fit(module("stash"), 2)
    assert int(drained.engine.step_count) == 6
    assert int(flowing.engine.step_count) == 12
    assert not torch.equal(drained.stages[0][0][0].weight, flowing.stages[0][0][0].weight)


def test_epoch_metrics_are_means_over_the_samples():
    model = module("ema-window")
    t = trainer(1)
    t.fit(model, data(), data(shuffle=False))
    with torch.no_grad():
        model.eval()
        x, y = data().dataset.tensors
        logits = model(x)
    assert t.callback_metrics["val_loss"].item() == pytest.approx(F.cross_entropy(logits, y).item(), abs=1e-6)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    assert t.callback_metrics["val_accuracy"].item() == pytest.approx(accuracy, abs=1e-6)
    assert {"train_loss", "train_accuracy"} <= t.callback_metrics.keys()


def test_optimizer_steps_are_counted():
    model, t = module("latest"), trainer(2)
    t.fit(model, data(), data(shuffle=False))
    assert t.global_step == 12


def test_a_schedule_may_move_every_step():
    model = module("stash", scheduler_interval="step")
    fit(model, 1)
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0.05 * 0.5**6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_autocast_trainers_are_refused(precision, monkeypatch):
    t = trainer(1)
    monkeypatch.setattr(type(t), "precision", precision)
    with pytest.raises(UserError, match=r"give PipelinedModule\(precision='bf16'\)"):
        t.fit(module("stash"), data(), data(shuffle=False))


def test_double_precision_trainer():
    model = fit(module("ema-window"), 1, precision="64-true")
    assert model.engine.delayed[0].line.dtype == torch.float64


@pytest.mark.parametrize("strategy", ["sequential", "stash", "ema-window"])
def test_bf16_keeps_float32_weights_and_learns(strategy):
    one = strategy == "sequential"
    model = module(strategy, group_size=4 if one else 1, precision="bf16", scheduler=None)
    fit(model, 1)
    first = model.trainer.callback_metrics["train_loss"].item()
    fit(model, 8)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.trainer.callback_metrics["train_loss"].item() < first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; give one of native, bf16"),
        ({"scheduler_interval": "batch"}, "scheduler_interval is 'batch'; give epoch or step"),
        ({"delays": Delays.layerpipe2(3)}, "there are 3 delays but the network has 4 stages"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        module("stash", **options)


def test_a_shared_parameter_is_refused():
    layer = nn.Linear(4, 4)
    with pytest.raises(UserError, match=r"parameter '0.weight' of stage 1 is also '0.weight' of stage 0"):
        PipelinedModule(partition([layer, copy.copy(layer)], 1), Delays.layerpipe2(2), make_history("stash"),
                        optimizer=OPTIMIZERS["sgd"])  # fmt: skip
