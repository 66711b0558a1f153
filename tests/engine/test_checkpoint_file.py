"""Files of checkpoints: what is damaged or would run code is refused, and what is saved can always be read."""

import inspect
import io
import os
from collections import Counter, OrderedDict
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader

from layerpipe2 import UserError
from layerpipe2.engine import checkpoint_file
from layerpipe2.engine.checkpoint_file import CheckpointFile, check, read, save
from tests.bombs import explodes, mine
from tests.engine.training import assert_bit_equal, checkpoint, data, fit, module, resumes, trainer
from tests.pipeline.fits import noise, pipelined

pytestmark = [
    resumes,
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided"),
]
few = partial(noise, (4,), 6, 2)


def test_every_flipped_bit_is_found_or_harmless(tmp_path):
    """The whole of the archive's directory, and a bit of each byte before it."""
    path = tmp_path / "a.ckpt"
    save({"w": torch.arange(3.0), "epoch": 7}, path)
    whole, outcomes = path.read_bytes(), Counter()
    directory = whole.index(b"PK\1\2")
    bits = [*((place, place % 8) for place in range(directory)), *product(range(directory, len(whole)), range(8))]
    for place, bit in bits:
        outcomes[outcome(io.BytesIO(flipped(whole, place, bit)))] += 1
    assert sorted(outcomes) == ["harmless", "refused"]
    assert min(outcomes.values()) > 1000


def flipped(content, place, bit):
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def outcome(file):
    try:
        check(file, "a.ckpt")
        found = torch.load(file, weights_only=True)
    except Exception:
        return "refused"
    return "harmless" if (found["w"].tolist(), found["epoch"]) == ([0, 1, 2], 7) else "another result"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of one epoch, as bytes."""
    return Path(checkpoint(tmp_path_factory.mktemp("trained"), module("ema-window"), 1)).read_bytes()


USES = {
    "fit": lambda path: fit(module("ema-window"), 2, ckpt_path=path),
    "validate": lambda path: trainer(1).validate(module("ema-window"), data(False), ckpt_path=path, verbose=False),
    "test": lambda path: trainer(1).test(module("ema-window"), data(False), ckpt_path=path, verbose=False),
    "predict": lambda path: trainer(1).predict(module("ema-window"), images(), ckpt_path=path),
    "read": read,
    "load_from_checkpoint": lambda path: loaded(path),
}


def images():
    return DataLoader([x for x, _ in data().dataset], 8)


def loaded(path, **options):
    made = module("ema-window")
    how = {"delays": made.delays, "strategy": made.strategy, "optimizer": made.make_optimizer}
    return type(made).load_from_checkpoint(path, stages=list(made.stages), **how, **options)


@pytest.mark.parametrize("use", USES)
def test_whatever_reads_a_checkpoint_checks_it_and_runs_no_code(use, trained, tmp_path):
    path, crater = tmp_path / "last.ckpt", tmp_path / "crater"
    path.write_bytes(trained)
    USES[use](str(path))
    for kind, message in (("added", r"names code \((posix|nt)\.mkdir\), and none"), ("alone", "is damaged")):
        mine(path, crater, kind)
        assert explodes(path, crater)
        with pytest.raises(UserError, match=rf"^checkpoint \S*last\.ckpt {message}.*$"):
            USES[use](str(path))
        path.write_bytes(trained)
    path.write_bytes(flipped(trained, trained.index(b"PK\1\2") // 2, 2))
    with pytest.raises(UserError, match=r"^checkpoint \S*last\.ckpt is damaged \(archive/data.*\).*$"):
        USES[use](str(path))
    assert not crater.exists()


def test_an_error_names_the_newest_intact_checkpoint_beside_it(trained, tmp_path):
    for number in range(3):
        path = tmp_path / f"epoch={number}.ckpt"
        path.write_bytes(trained)
        os.utime(path, (number, number))
    path.write_bytes(trained[:-100])
    with pytest.raises(
        UserError, match=r"2\.ckpt is damaged \(.*\); take \S*epoch=1\.ckpt, which is intact, in its place$"
    ):
        USES["fit"](path)
    mine(tmp_path / "epoch=1.ckpt", tmp_path / "crater")
    with pytest.raises(UserError, match=r"2\.ckpt is damaged \(.*\); take \S*epoch=0\.ckpt, which"):
        USES["fit"](path)
    assert not (tmp_path / "crater").exists()


def test_code_is_run_for_those_who_ask_for_it(trained, tmp_path):
    path, crater = tmp_path / "last.ckpt", tmp_path / "crater"
    path.write_bytes(trained)
    mine(path, crater)
    one = trainer(2)
    one.fit(module("ema-window"), data(), data(False), ckpt_path=path, weights_only=False)
    crater.rmdir()
    loaded(path, weights_only=False)
    assert crater.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no checkpoint file"),
        (Path.mkdir, "no checkpoint file"),
        (os.mkfifo, "no checkpoint file"),
        (lambda path: torch.save({"a": 1}, path), "a.ckpt is no checkpoint of a Trainer; give one that it saved"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(make, message, tmp_path):
    make(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=message):
        fit(module("stash"), 1, ckpt_path=tmp_path / "a.ckpt")


class Factor:
    """A schedule with a state."""

    def __init__(self):
        self.rate = np.float32(0.7)

    def __call__(self, step):
        return self.rate**step


NUMBERS = {
    "momentum": np.float32(0.9),
    "betas": (np.float64(0.9), 0.99),
    "beta2_decay": np.float32(-0.8),
    "alpha": np.float32(0.9),
    "rho": np.float32(0.9),
}
REFUSED = {"LBFGS", "SparseAdam"}  # a closure, sparse gradients
OPTIMIZERS = [
    kind
    for name, kind in inspect.getmembers(torch.optim, inspect.isclass)
    if kind is not torch.optim.Optimizer and name not in REFUSED
]
SCHEDULERS = {
    "none": None,
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ExponentialLR(o, 0.9), schedulers.MultiplicativeLR(o, lambda step: np.float32(0.7))]
    ),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, np.float32(0.1), np.float64(0.2), np.int64(2)),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, Factor()),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, np.array([1, 2]), np.float32(0.3)),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, np.float64(0.1), 20, div_factor=np.float32(30)),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, np.float32(0.3)), schedulers.StepLR(o, 1, np.float32(0.9))], [np.int64(2)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, np.float64(0.05)),
}
"""Schedulers with states of every kind: numbers, counters, states of others and of the user's own."""


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        *((optimizer, "none") for optimizer in OPTIMIZERS),
        *((torch.optim.SGD, scheduler) for scheduler in SCHEDULERS),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_with_numbers_of_numpys_every_optimizer_continues_bit_for_bit(optimizer, scheduler, tmp_path):
    def train(epochs, path=None):
        torch.manual_seed(1)
        options = {"lr": np.float32(0.1)} | {
            n: v for n, v in NUMBERS.items() if n in inspect.signature(optimizer).parameters
        }
        make = partial(optimizer, **options)
        stages = [nn.Linear(4, 4, bias=False) for _ in range(2)]
        trained = pipelined(stages, optimizer=make, scheduler=SCHEDULERS[scheduler], scheduler_interval="step")
        one = trainer(epochs)
        one.fit(trained, few(), few(), ckpt_path=path)
        return one, trained.state_dict()

    train(1)[0].save_checkpoint(tmp_path / "a.ckpt")
    assert_bit_equal(train(2, tmp_path / "a.ckpt")[1], train(2)[1])


def test_what_is_saved_keeps_its_kinds(tmp_path):
    state = OrderedDict(
        a=(1, [np.float64(0.5), np.bool_(True), np.str_("x")]), b=Counter({np.int64(3): 2}), c=Path("x")
    )
    save({"callbacks": state, "state_dict": nn.Linear(1, 1).state_dict()}, tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt")
    assert found["callbacks"] == state | {"c": "x"}
    assert [type(value) for value in (found["callbacks"], *found["callbacks"].values())] == [
        OrderedDict,
        tuple,
        Counter,
        str,
    ]
    assert list(map(type, found["callbacks"]["a"][1])) == [float, bool, str]
    assert type(next(iter(found["callbacks"]["b"]))) is int
    assert found["state_dict"]._metadata[""] == {"version": 1}


class Keeping(pl.Callback):
    """A callback with a state of the user's own kind."""

    def __init__(self, kept):
        self.kept = kept

    def state_dict(self):
        return {"kept": self.kept}


@pytest.mark.parametrize("kept", [np.arange(3), range(3), Keeping(None)])
def test_what_could_not_be_read_again_is_not_saved(kept, tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"the one before")
    one = trainer(1, callbacks=[Keeping(kept)], enable_checkpointing=False)
    one.fit(module("stash"), data(), data(False))
    with pytest.raises(
        UserError, match=r"a\.ckpt would hold .*(numpy.ndarray|range|Keeping).*, which only code can read again"
    ):
        one.save_checkpoint(path)
    assert [(p, p.read_bytes()) for p in tmp_path.glob("*")] == [(path, b"the one before")]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_save_returns(tmp_path, monkeypatch):
    order, path = [], tmp_path / "a.ckpt"
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(os.readlink(f"/proc/self/fd/{handle}")))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *names: (order.append("named"), replace(*names)))
    checkpoint_file.save({}, path)
    assert order == [str(tmp_path / ".a.ckpt.part"), "named", str(tmp_path)]


class Own(TorchCheckpointIO):
    """A user's plugin."""


def test_a_file_that_is_not_on_a_disk_is_saved_and_read_as_well():
    saved, files = {"pytorch-lightning_version": "2", "weights": torch.arange(3.0)}, CheckpointFile()
    files.save_checkpoint(saved, "memory://run/last.ckpt")
    assert_bit_equal(
        {"weights": files.load_checkpoint("memory://run/last.ckpt")["weights"]}, {"weights": saved["weights"]}
    )


def test_a_plugin_of_the_users_own_stays():
    own, wrapped = Own(), AsyncCheckpointIO()
    kinds = [fit_with(plugin).strategy.checkpoint_io for plugin in (own, wrapped, None)]
    assert kinds[:2] == [own, wrapped]
    assert type(kinds[1].checkpoint_io) is type(kinds[2]) is CheckpointFile


def fit_with(plugin):
    one = trainer(1, plugins=[plugin] if plugin else [])
    one.fit(module("stash"), data(), data(False))
    return one
