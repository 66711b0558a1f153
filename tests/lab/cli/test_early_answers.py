"""Wrong values, unknown names and missing data are told before torch is imported, which takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import runpy, sys
from multiprocessing import forkserver

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "torchvision", "pytorch_lightning", "sklearn"}:
            raise AssertionError(f"{name} is imported")

def started():
    raise AssertionError("a server of processes is started")

sys.meta_path.insert(0, Refused())
forkserver.ensure_running = started
program, *commands = sys.argv[1:]
for command in commands:
    sys.argv = [program, *command.split()]
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        print(ended.code)
"""
FILES = "cifar-10-batches-py/*, train/<class>/*.png or cifar10.npz in data"
MISSING = (
    f"cifar10: no {FILES}",
    f"layerpipe2: error: cifar10: no data found; looked for {FILES}; give --download (in Python download=True), "
    "or put the files there, or name their folder (--data-root)",
)
NOWHERE = "cifar10: data folder /nowhere (the root argument) is not a directory; correct the path, or create the folder"
NETWORK, DATA = "unknown network 'nonsense'; known: mlp, cnn", "unknown data set 'nonsense'; known: digits, fash"


MISTAKES = {
    "train --dataset cifar10 --data-root /nowhere": NOWHERE,
    "train --dataset nonsense": DATA,
    "train --network nonsense": NETWORK,
    "train --strategy nonsense": "unknown strategy 'nonsense'; known: sequential, stash, latest",
    "advise --strategy ema-spam": "unknown strategy 'ema-spam'; did you mean 'ema-span'?",
    "train --lr -1": "--lr is -1.0; give a finite number > 0",
    "balance --network nonsense": NETWORK,
    "balance --stages 0": "argument --stages: '0' is out of range; give an integer from 1",
    "delays --ticks 0": "argument --ticks: '0' is out of range; give an integer from 1",
    "derive --network nonsense": NETWORK,
    "launch --processes 0": "argument --processes: '0' is out of range; give an integer from 1 to 1024",
    "schedule --processors 0": "argument --processors: '0' is out of range; give an integer",
    "stability --dataset nonsense": DATA,
    "tune --dataset nonsense": DATA,
    "tune": "nothing to tune; give settings and their ranges",
    "tune statsu": "'layerpipe2 tune' can't 'statsu'; did you mean 'status'?",
    "tune status --out nowhere": "there is no study in nowhere; start one",
    "tune --space lr=lg:1:2": "space.lr is 'lg:1:2'; give log:LOW:HIGH",
    "tune --space lr=log:1:2 --sampler nonsense": "sampler is 'nonsense'; give one of tpe, gp, random",
    "tune --space lr=log:1:2 --objective loss loss": "objectives is ('loss', 'loss'); give a list of distinct names",
    "tune --space lr=log:1:2 --module nonsense:x": "--module is 'nonsense:x', and there is no module nonsense",
    "tune --space lr=log:1:2 --dataset cifar10 --data-root /nowhere": NOWHERE,
    "advise --strategies nonsense": "unknown strategy 'nonsense'; known: sequential, stash, latest",
    "advise --module nonsense:x": "--module is 'nonsense:x', and there is no module nonsense, here or installed",
    "advise --module json:load --lr -1": "--lr is -1.0; give a finite number > 0",
    "balance --module json.nonsense:x": "--module is 'json.nonsense:x', and there is no module json.nonsense",
    "balance --latency 1": "--latency is that of a link between machines; give its --gigabits, too",
}
EXPERIMENTS = {
    "nonsense": "no experiment 'nonsense'; known: digits, evidence-cnn",
    "nowhere.yaml": "nowhere.yaml",
    "digits --job 2": "unknown argument '--job'; did you mean '--jobs'?",
}


def errors(folder, module, *commands):
    """Lines on stderr of a module's commands, one after the other in one process, which all fail with code 2."""
    env = {name: value for name, value in os.environ.items() if name != "LAYERPIPE2_DATA"}
    script = [sys.executable, "-c", WITHOUT_TORCH, module, *commands]
    done = subprocess.run(script, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2"] * len(commands), done.stderr
    return done.stderr.splitlines()


def test_missing_data_is_told_without_torch(tmp_path):
    commands = [f"{command} --dataset cifar10" for command in ("train", "advise", "tune --space lr=log:1:2")]
    assert errors(tmp_path, "layerpipe2", *commands) == [*MISSING, *MISSING, MISSING[1]]


@pytest.mark.parametrize(
    ("program", "mistakes"),
    [("layerpipe2", MISTAKES), ("experiments.run", EXPERIMENTS), ("experiments.tune", EXPERIMENTS)],
)
def test_wrong_values_and_names_are_told_without_torch(program, mistakes):
    for line, message in zip(errors(ROOT, program, *mistakes), mistakes.values(), strict=True):
        assert line.startswith(f"{program}: error: {message}")
