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
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
FILES = "cifar-10-batches-py/*, train/<class>/*.png or cifar10.npz in data"
MISSING = (
    f"cifar10: no {FILES}",
    f"layerpipe2: error: cifar10: no data found; looked for {FILES}; give --download (in Python download=True), "
    "or put the files there, or name their folder (--data-root)",
)
NOWHERE = "cifar10: data folder /nowhere (the root argument) is not a directory; correct the path, or create the folder"
NETWORK, DATA = "unknown network 'nonsense'; known: mlp, cnn", "unknown data set 'nonsense'; known: digits, fash"


def errors(folder: Path, module: str, *arguments: str) -> list[str]:
    """Lines on stderr of a module that fails with code 2."""
    env = {name: value for name, value in os.environ.items() if name != "LAYERPIPE2_DATA"}
    command = [sys.executable, "-c", WITHOUT_TORCH, module, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("command", ["train", "advise"])
def test_missing_data_is_told_without_torch(command, tmp_path):
    assert errors(tmp_path, "layerpipe2", command, "--dataset", "cifar10") == list(MISSING)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --dataset cifar10 --data-root /nowhere", NOWHERE),
        ("train --dataset nonsense", DATA),
        ("train --network nonsense", NETWORK),
        ("train --strategy nonsense", "unknown strategy 'nonsense'; known: sequential, stash, latest"),
        ("advise --strategy ema-spam", "unknown strategy 'ema-spam'; did you mean 'ema-span'?"),
        ("train --lr -1", "--lr is -1.0; give a finite number > 0"),
        ("balance --network nonsense", NETWORK),
        ("balance --stages 0", "argument --stages: '0' is out of range; give an integer from 1"),
        ("delays --ticks 0", "argument --ticks: '0' is out of range; give an integer from 1"),
        ("derive --network nonsense", NETWORK),
        ("launch --processes 0", "argument --processes: '0' is out of range; give an integer from 1 to 1024"),
        ("schedule --processors 0", "argument --processors: '0' is out of range; give an integer"),
        ("stability --dataset nonsense", DATA),
        ("tune --dataset nonsense", DATA),
        ("tune", "nothing to tune; give settings and their ranges"),
    ],
)
def test_wrong_values_and_names_are_told_without_torch(arguments, message, tmp_path):
    (line,) = errors(tmp_path, "layerpipe2", *arguments.split())
    assert line.startswith(f"layerpipe2: error: {message}")


@pytest.mark.parametrize("program", ["experiments.run", "experiments.tune"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nonsense", "no experiment 'nonsense'; known: digits, evidence-cnn"),
        ("nowhere.yaml", "nowhere.yaml"),
        ("digits --job 2", "unknown argument '--job'; did you mean '--jobs'?"),
    ],
)
def test_an_experiment_that_is_not_there_is_told_without_torch(program, arguments, message):
    (line,) = errors(ROOT, program, *arguments.split())
    assert line.startswith(f"{program}: error: {message}")
