"""PipelinedModule under a real Trainer: equal to plain Lightning without delays; what it logs, counts and refuses."""

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from layerpipe2 import Delays, PipelinedModule, UserError
from tests.engine.training import OPTIMIZERS, data, fit, module, network, step_schedule, trainer


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


@pytest.mark.parametrize(("strategy", "optimizer"), [("stash", "adamw"), ("ema-window", "sgd"), ("latest", "sgd")])
@pytest.mark.parametrize(
    ("delays", "group_size", "accumulate"),
    [(None, 4, 1), (Delays.none(4), 1, 1), (Delays.none(4), 1, 3), (Delays.custom([0] * 4), 1, 1)],
    ids=["one stage", "no delay", "several mini-batches per update", "all delays zero"],
)
def test_without_delay_bit_equal_to_plain_lightning(delays, group_size, accumulate, strategy, optimizer):
    mine = fit(module(strategy, delays, group_size, optimizer, accumulate=accumulate), 3)
    torch.manual_seed(3)
    plain = fit(Plain(network(), OPTIMIZERS[optimizer]), 3, accumulate_grad_batches=accumulate)
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), plain.state_dict().values(), strict=True))
    assert mine.trainer.global_step == plain.trainer.global_step == int(mine.engine.step_count) == 18 // accumulate
    torch.manual_seed(3)
    assert not torch.equal(next(plain.parameters()), next(nn.Sequential(*network()).parameters())), (
        "nothing was trained"
    )


class PastThePipeline(PipelinedModule):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


def test_a_step_of_ones_own_that_trains_no_pipeline_is_refused():
    one = PastThePipeline(network(), [0] * len(network()), "latest", optimizer=OPTIMIZERS["sgd"])
    with pytest.raises(
        UserError, match=r"PastThePipeline\.training_step trains no pipeline; call super\(\)\.training_st"
    ):
        fit(one, 1)


def test_epoch_metrics_are_means_over_the_samples():
    model = fit(module("ema-window"), 1)
    metrics = model.trainer.callback_metrics
    with torch.no_grad():
        model.eval()
        x, y = data().dataset.tensors
        logits = model(x)
    assert metrics["val_loss"].item() == pytest.approx(F.cross_entropy(logits, y).item(), abs=1e-6)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    assert metrics["val_accuracy"].item() == pytest.approx(accuracy, abs=1e-6)
    assert {"train_loss", "train_accuracy"} <= metrics.keys()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_autocast_trainers_are_refused(precision, monkeypatch):
    t = trainer(1)
    monkeypatch.setattr(type(t), "precision", precision)
    with pytest.raises(UserError, match=r"give PipelinedModule\(precision='bf16'\)"):
        t.fit(module("stash"), data(), data(shuffle=False))


def test_double_precision_trainer():
    model = fit(module("ema-window"), 1, precision="64-true")
    assert model.engine.delayed[0].line.dtype == torch.float64


@pytest.mark.parametrize(("strategy", "group_size"), [("sequential", 4), ("ema-window", 1)])
def test_bf16_keeps_float32_weights_and_learns(strategy, group_size):
    model = fit(module(strategy, group_size=group_size, precision="bf16", scheduler=None), 1)
    first = model.trainer.callback_metrics["train_loss"].item()
    fit(model, 8)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.trainer.callback_metrics["train_loss"].item() < first


def test_the_optimizer_may_walk_its_parameters_twice():
    def groups(parameters):
        weights = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim == 1]
        return torch.optim.SGD([{"params": weights}, {"params": others, "weight_decay": 0.0}], lr=0.05)

    pipeline = module("stash")
    pipeline.make_optimizer = groups
    before = {name: p.clone() for name, p in pipeline.named_parameters()}
    fit(pipeline, 1)
    assert all(not torch.equal(before[name], p) for name, p in pipeline.named_parameters())


def test_a_scheduler_that_needs_a_metric():
    with pytest.raises(UserError, match=r"^ReduceLROnPlateau waits for a metric"):
        fit(module("stash", scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau), epochs=1)


def test_an_optimizer_that_is_not_returned():
    one = module("stash")
    one.make_optimizer = lambda p: None
    with pytest.raises(UserError, match=r"optimizer returned a NoneType; it must return a torch\.optim optimizer"):
        one.configure_optimizers()


def test_predictions_are_the_outputs_for_inputs_with_or_without_targets():
    model = fit(module("ema-window"), 1)
    x, _ = data().dataset.tensors
    with_targets = trainer(1).predict(model, data(shuffle=False))
    alone = trainer(1).predict(model, DataLoader(x, 8))
    with torch.no_grad():
        expected = torch.cat([model.eval()(part) for part in x.split(8)])
    assert torch.equal(torch.cat(with_targets), expected)
    assert torch.equal(torch.cat(alone), expected)


def test_what_can_not_be_predicted_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"mini-batch is a dict; a pipeline takes a pair \(inputs, targets\)"):
        trainer(1).predict(module("stash"), DataLoader([{"x": torch.zeros(1, 8, 8)}]))


def test_after_training_parameters_have_memory_of_their_own():
    model = fit(module("ema-span"), 1)
    memory = [p.untyped_storage() for p in model.parameters()]
    assert len({one.data_ptr() for one in memory}) == len(memory)
    assert [one.nbytes() for one in memory] == [p.nbytes for p in model.parameters()]
