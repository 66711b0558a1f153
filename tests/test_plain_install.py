"""The library and the commands on a training of one's own need nothing but what a plain install brings."""

import json
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
RUN = """
import io, json
from contextlib import redirect_stderr, redirect_stdout
import layerpipe2, pytorch_lightning
from examples.own_training import pipeline
from layerpipe2.cli import main

def trained():
    module, loader = pipeline()
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    before = [p.clone() for p in module.parameters()]
    pytorch_lightning.Trainer(max_steps=12, **quiet).fit(module, loader)
    return len(module.stages) > 2 and all(not a.equal(b) for a, b in zip(before, module.parameters()))

def answer(line, without):
    global REFUSED
    REFUSED = without
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(line.split())
    return code, out.getvalue(), err.getvalue()

if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        missing = [name for name in layerpipe2.__all__ if getattr(layerpipe2, name, None) is None]
        found = {"missing": missing, "trained": trained()}
    json.dump(found | {"answers": [answer(*command) for command in json.loads(sys.argv[1])]}, sys.stdout)
"""
OWN = "--module examples.own_training:pipeline"
WORKING = {
    f"balance {OWN} --stages 2 --repeats 1": "examples.own_training:pipeline: 3 units, mini-batches of 32, RMSprop, ",
    f"advise {OWN} --steps 10": "10 updates with each strategy, side by side from the first one",
    "check --only float64": "cpu float64 chain       equal",
    "schedule --processors 3": "interleaved is left out",
}
REFUSALS = {
    "train --network vgg": "'layerpipe2 train' needs pydantic; run `pip install '.[lab]'` in",
    "derive": "'layerpipe2 derive' needs networkx; run `pip install '.[theory]'` in",
    "balance": "no training is named; give --module package.module:function; the study's networks need `pip ",
    "advise --module examples.own_training:training": "examples.own_training:training returns a network, whose",
    "tune --space lr=log:0.001:1": "'layerpipe2 tune' needs optuna; run `pip install '.[tuning]'` in",
}


@pytest.fixture(scope="module")
def found():
    """What one process says, which imports torch once: of the library, then code, output and errors of each command."""
    commands = [(line, ["optuna"] if line.startswith("tune") else sorted(ALL)) for line in [*WORKING, *REFUSALS]]
    command = [sys.executable, "-c", f"REFUSED = {ALL}{REFUSING}{RUN}", json.dumps(commands)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def answers(found):
    return dict(zip([*WORKING, *REFUSALS], found["answers"], strict=True))


def test_everything_public_is_there_and_trains(found):
    assert (found["missing"], found["trained"]) == ([], True)


@pytest.mark.parametrize("line", WORKING)
def test_commands_on_ones_own_training_work(line, answers):
    code, out, err = answers[line]
    assert code == 0, err
    assert WORKING[line] in out


@pytest.mark.parametrize("line", REFUSALS)
def test_for_others_one_line_says_what_to_install(line, answers):
    code, _, err = answers[line]
    assert code == 2
    assert err.startswith(f"layerpipe2: error: {REFUSALS[line]}")
    assert err.count("\n") == 1
