"""What a module logs: metrics of torchmetrics beside loss and accuracy, and what stands in the progress bar."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from layerpipe2 import UserError
from tests.engine.training import assert_bit_equal, data, fit, module, trainer
from tests.pipeline import fits


def f1(classes=5, **options):
    return MulticlassF1Score(classes, average="macro", **options)


def test_metrics_are_exact_over_uneven_batches_and_change_nothing():
    metrics = MetricCollection({"f1": f1(), "top2": MulticlassAccuracy(5, top_k=2, average="micro")})
    model = fit(module("ema-window", metrics=metrics), 2)
    assert_bit_equal(model.state_dict(), fit(module("ema-window"), 2).state_dict())
    assert {"train_f1", "train_top2", "val_f1", "val_top2"} <= model.trainer.callback_metrics.keys()
    x, y = data().dataset.tensors
    logged = trainer(1).test(model, DataLoader(data().dataset, 7), verbose=False)[0]
    with torch.no_grad():
        outputs = model.eval()(x)
    assert logged["test_f1"] == pytest.approx(f1()(outputs, y).item(), abs=1e-6)
    assert logged["test_top2"] == pytest.approx((outputs.topk(2).indices == y[:, None]).any(1).float().mean().item())
    assert metrics["f1"].update_called is False


def test_metrics_begin_anew_every_epoch():
    model = fit(module("stash", metrics={"again": MulticlassAccuracy(5, average="micro")}), 3)
    logged = model.trainer.callback_metrics
    for phase in ("train", "val"):
        assert logged[f"{phase}_again"].item() == pytest.approx(logged[f"{phase}_accuracy"].item())


def test_metrics_in_two_processes_are_those_of_one():
    fits.assert_equal(fits.fit(lambda: fits.pipelined(fits.dense(), metrics={"f1": f1(4)}), data=_uneven), 2)


def _uneven():
    return fits.noise(size=21)


def test_a_metric_of_several_numbers_is_refused():
    with pytest.raises(UserError, match=r"^metric 'f1' gives a tensor of shape \[5\]; take one that gives one number"):
        fit(module("stash", metrics={"f1": MulticlassF1Score(5, average=None)}), 1)
    with pytest.raises(UserError, match=r"^metric 'table' gives a tensor of shape \[5, 5\]; take one"):
        fit(module("stash", metrics={"table": MulticlassConfusionMatrix(5)}), 1)


def test_losses_and_the_rate_stand_in_the_progress_bar():
    shown = fit(module("stash"), 3).trainer.progress_bar_metrics
    assert shown.keys() == {"train_loss", "val_loss", "learning_rate"}
    assert shown["learning_rate"] == pytest.approx(0.05 * 0.5**2)


def test_an_epoch_after_a_training_that_was_broken_off_has_means_of_its_own():
    class BreaksOff(pl.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("broken off")

    model = module("stash")
    with pytest.raises(RuntimeError, match=r"^broken off$"):
        fit(model, 1, callbacks=[BreaksOff()], enable_checkpointing=False)
    fresh = module("stash")
    fresh.load_state_dict(model.state_dict())
    first, second = (fit(one, 1).trainer.callback_metrics["train_loss"] for one in (model, fresh))
    assert first == second
