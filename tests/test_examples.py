"""The examples run, and show what they say."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.advice import ADVICE

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in ADVICE]


def run(name, capsys, epochs):
    """What an example prints when its main function runs for so many epochs."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](epochs)
    return capsys.readouterr().out


def test_every_example_is_short_tested_and_linked():
    examples = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert examples.keys() == {"own_network", "own_data_module", "two_processes"}
    assert [name for name, text in examples.items() if len(text.splitlines()) > 60] == []
    guide = "".join(path.read_text() for path in (ROOT / "docs" / "guide").glob("*.md"))
    assert [name for name in examples if f"examples/{name}.py" not in guide] == []


def test_own_network(capsys):
    printed = run("own_network", capsys, epochs=2)
    names = re.findall(r"^(.+?) +(\d+\.\d) %$", printed, re.MULTILINE)
    assert [name for name, _ in names] == ["sequential", "stash", "latest", "ema-span"]
    assert all(float(accuracy) > 20 for _, accuracy in names)


def test_own_data_module_continues_with_the_same_bits(capsys):
    printed = run("own_data_module", capsys, epochs=4)
    assert "same bits: True" in printed
    assert printed.count("epoch 4: validation accuracy") == 2


def test_two_processes_print_the_numbers_of_the_simulation(capsys):
    simulated = re.findall(r"^(\w+) +([\d.]+)$", run("two_processes", capsys, epochs=8), re.MULTILINE)
    script = str(EXAMPLES / "two_processes.py")
    command = [sys.executable, "-m", "layerpipe2", "launch", "--processes", "2", "--", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert re.findall(r"^\[rank 0\] (\w+) +([\d.]+)$", printed, re.MULTILINE) == simulated
    assert [name for name, _ in simulated] == ["train_loss", "val_loss", "val_accuracy"]
