"""Settings by name and as plain values: what hparams hold, what a logger and a checkpoint keep of them."""

from functools import partial
from operator import call

import pytest
import torch
import torch.nn.functional as F
import yaml
from pytorch_lightning.loggers import CSVLogger

from layerpipe2 import Delays, PipelinedModule, UserError, make_strategy, partition
from layerpipe2.engine.checkpoint_file import read
from layerpipe2.strategies import MovingAverage
from tests.engine.training import (
    OPTIMIZERS,
    assert_bit_equal,
    checkpoint,
    data,
    fit,
    module,
    network,
    resume,
    resumes,
    trainer,
)

SETTINGS = {"drain": True, "gradient_clip_norm": 0.5, "stage_seed": 4, "loss": "mse_loss", "delays": [3, 1, 1, 0]}


def made(**options):
    options = {"delays": "pipedream", "strategy": "ema-0.95-raw", "optimizer": OPTIMIZERS["sgd"]} | options
    return PipelinedModule(partition(network(), 1), **options)


def loaded(path, **options):
    torch.manual_seed(9)
    options = {"stages": partition(network(), 1), "optimizer": OPTIMIZERS["sgd"]} | options
    return PipelinedModule.load_from_checkpoint(path, **options)


def test_names_stand_for_delays_histories_and_losses():
    named = made(loss="mse_loss")
    assert named.delays == Delays.pipedream(4)
    assert made(strategy="ema-span").strategy == make_strategy("ema-span")
    assert named.loss is F.mse_loss
    assert made(delays=(3, 1, 1, 0)).delays == Delays.custom([3, 1, 1, 0])


def test_hparams_are_plain_values():
    assert dict(made().hparams) == {
        "num_stages": 4,
        "delays_per_stage": [3, 2, 1, 0],
        "delays": "pipedream",
        "strategy": "ema-0.95-raw",
        "loss": "cross_entropy",
        "optimizer": "tests.engine.training.<lambda>",
        "scheduler": None,
        "scheduler_interval": "epoch",
        "gradient_clip_norm": None,
        "accumulate": 1,
        "probe_every": 0,
        "drain": False,
        "precision": "native",
        "stage_seed": None,
        "cuda_graph": False,
        "unfreezes": None,
        "inputs": None,
        "target": None,
        "ignore_index": None,
        "shift_target": False,
        "accuracy": True,
    }


@pytest.mark.parametrize("make", [torch.optim.SGD, partial(torch.optim.SGD, lr=0.1), partial(call, torch.optim.SGD)])
def test_functions_are_named_by_what_they_make(make):
    assert made(optimizer=make).hparams.optimizer == "torch.optim.sgd.SGD"
    assert made(loss=torch.nn.CrossEntropyLoss()).hparams.loss == "torch.nn.modules.loss.CrossEntropyLoss"


def test_a_logger_gets_them_as_they_are_when_training_begins(tmp_path):
    model = made()
    model.drain = True
    one = trainer(1, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    one.fit(model, data(), data(shuffle=False))
    (path,) = tmp_path.rglob("hparams.yaml")
    assert yaml.safe_load(path.read_text()) == dict(made().hparams) | {"drain": True}


def test_a_checkpoint_brings_settings_and_weights(tmp_path):
    trained = made(**SETTINGS | {"loss": "cross_entropy"})
    again = loaded(checkpoint(tmp_path, trained, 1))
    assert dict(again.hparams) == dict(trained.hparams)
    assert again.delays.per_stage == (3, 1, 1, 0)
    assert_bit_equal(again.state_dict(), trained.state_dict())


def test_arguments_are_stronger_than_the_checkpoint(tmp_path):
    path = checkpoint(tmp_path, made(), 1)
    again = loaded(path, strategy="stash", drain=True)
    assert (again.strategy, again.drain, again.delays) == (make_strategy("stash"), True, Delays.pipedream(4))


def test_what_is_code_must_be_given_again(tmp_path):
    path = checkpoint(tmp_path, made(loss=lambda outputs, y: F.cross_entropy(outputs, y), strategy=MovingAverage()), 1)
    with pytest.raises(UserError, match=r"^unknown strategy 'MovingAverage'; known.*; or give a Strategy"):
        loaded(path)
    with pytest.raises(UserError, match=r"^unknown loss '\S*lambda>'; known.*; or give the function itself$"):
        loaded(path, strategy=MovingAverage())
    assert loaded(path, strategy=MovingAverage(), loss=F.cross_entropy)
    with pytest.raises(UserError, match=r"^load_from_checkpoint has no stages; give them, as they were made for"):
        PipelinedModule.load_from_checkpoint(path)
    with pytest.raises(UserError, match=r"^optimizer is 'tests\.engine.*'; give a function that makes it"):
        PipelinedModule.load_from_checkpoint(path, stages=partition(network(), 1), strategy="stash", loss="mse_loss")


@resumes
def test_a_checkpoint_without_settings_still_loads_and_resumes(tmp_path):
    """As an earlier version wrote it."""
    path = checkpoint(tmp_path, module("ema-window"), 1)
    content = read(path)
    del content["hyper_parameters"], content["hparams_name"]
    torch.save(content, path)
    assert loaded(path, delays="layerpipe2", strategy="ema-window").delays == Delays.layerpipe2(4)
    resumed = resume(path, module("ema-window"), 2)
    assert_bit_equal(resumed.state_dict(), fit(module("ema-window"), 2).state_dict())


def test_a_checkpoint_of_version_one_names_the_setting_that_has_another_name(tmp_path):
    path, saved = checkpoint(tmp_path, made(), 1), "MovingAverage"
    content = read(path)
    del content["hyper_parameters"]["strategy"]
    torch.save(content, path)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'strategy'"):
        loaded(path)
    content["hyper_parameters"]["history"] = saved
    torch.save(content, path)
    remedy = f"calls the strategy 'history', as version 0.1 did; give load_from_checkpoint strategy='{saved}'"
    with pytest.raises(UserError, match=rf"^checkpoint \S* {remedy}$"):
        loaded(path)
    assert loaded(path, strategy="ema-window").strategy == make_strategy("ema-window")


class Own(PipelinedModule):
    """Passes on what it doesn't know, as subclasses do."""

    def __init__(self, stages, delays, strategy, width=3, num_stages=0, **options):
        super().__init__(stages, delays, strategy, **options)
        self.save_hyperparameters("width", "num_stages")


def test_a_subclass_saves_its_own_beside_them(tmp_path):
    model = Own(partition(network(), 1), "pipedream", "ema-span", width=5, num_stages=7, optimizer=OPTIMIZERS["sgd"])
    path = checkpoint(tmp_path, model, 1)
    again = Own.load_from_checkpoint(path, stages=partition(network(), 1), optimizer=OPTIMIZERS["sgd"])
    assert (again.hparams.width, again.hparams.num_stages, again.hparams.strategy) == (5, 7, "ema-span")
    assert again.delays == Delays.pipedream(4)


def test_the_strategys_name_of_version_0_1_meets_the_new_one():
    with pytest.raises(UserError, match=r"^history is called strategy since version 0\.2"):
        PipelinedModule(partition(network(), 1), "pipedream", history="stash", optimizer=OPTIMIZERS["sgd"])
