"""The library and the commands on a training of one's own need nothing but what a plain install brings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layering import OTHER_PACKAGES

ROOT = Path(__file__).parents[1]
ALL = set().union(*OTHER_PACKAGES.values())
REFUSING = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        importer = sys._getframe(1)
        while "importlib" in importer.f_code.co_filename:
            importer = importer.f_back
        if name in REFUSED and importer.f_globals["__name__"].startswith("layerpipe2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
"""
TRAINED = """
import layerpipe2, pytorch_lightning
from examples.own_training import training
assert all(getattr(layerpipe2, name) is not None for name in layerpipe2.__all__)
module, loader = training()
before = [p.clone() for p in module.parameters()]
pytorch_lightning.Trainer(max_steps=12, accelerator="cpu", logger=False, enable_checkpointing=False).fit(module, loader)
assert len(module.stages) > 2 and all(not a.equal(b) for a, b in zip(before, module.parameters()))
"""
RUN = "from layerpipe2.cli import main; sys.exit(main(sys.argv[1:]))"
OWN = "--module examples.own_training:training"


def plain(script, *arguments, without=ALL):
    command = [sys.executable, "-c", f"REFUSED = {without}{REFUSING}{script}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def test_everything_public_is_there_and_trains():
    done = plain(TRAINED)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (f"balance {OWN} --stages 3 --repeats 1", "examples.own_training:training: 5 units, mini-batches of 32, SGD, "),
        (f"advise {OWN} --steps 10", "10 updates with each strategy, side by side from the first one"),
        ("check --only float64", "cpu float64 chain       equal"),
        ("schedule --processors 3", "interleaved is left out"),
    ],
)
def test_commands_on_ones_own_training_work(arguments, text):
    done = plain(RUN, *arguments.split())
    assert done.returncode == 0, done.stderr
    assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --network vgg", "'layerpipe2 train' needs pydantic; run `pip install '.[lab]'` in"),
        ("derive", "'layerpipe2 derive' needs networkx; run `pip install '.[theory]'` in"),
        ("tune --space lr=log:0.001:1", "'layerpipe2 tune' needs optuna; run `pip install '.[tuning]'` in"),
        ("balance", "no training is named; give --module package.module:function; the study's networks need `pip "),
    ],
)
def test_for_others_one_line_says_what_to_install(arguments, message):
    done = plain(RUN, *arguments.split(), without={"optuna"} if "optuna" in message else ALL)
    assert done.returncode == 2
    assert done.stderr.startswith(f"layerpipe2: error: {message}")
    assert done.stderr.count("\n") == 1
