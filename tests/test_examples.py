"""The examples run, and show what they say."""

import re
import runpy
import sys
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml

from tests.advice import ADVICE
from tests.pipeline import processes

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in ADVICE]


def run(name, capsys, epochs):
    """What an example prints when its main function runs for so many epochs."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](epochs)
    return capsys.readouterr().out


def test_own_network(capsys):
    printed = run("own_network", capsys, epochs=2)
    names = re.findall(r"^(.+?) +(\d+\.\d) %$", printed, re.MULTILINE)
    assert [name for name, _ in names] == ["sequential", "stash", "latest", "ema-span"]
    assert all(float(accuracy) > 20 for _, accuracy in names)


def test_own_data_module_continues_with_the_same_bits(capsys):
    printed = run("own_data_module", capsys, epochs=4)
    assert "same bits: True" in printed
    assert printed.count("epoch 4: validation accuracy") == 2


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")  # of Lightning 2.6
def test_lightnings_command_line_sets_what_a_pipeline_needs(tmp_path, monkeypatch):
    """From the file and from options; the logger and a checkpoint know it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    chosen = ["--model.strategy", "stash", "--model.delays", "[4,1,0]", "--trainer.max_epochs", "4"]
    file = str(EXAMPLES / "lightning_cli.yaml")
    monkeypatch.setattr(sys, "argv", ["lightning_cli.py", "fit", "--config", file, *quiet, *chosen])
    cli = import_module("lightning_cli").main()
    assert cli.trainer.callback_metrics["val_accuracy"] > 0.5
    (path,) = tmp_path.rglob("hparams.yaml")
    logged = yaml.safe_load(path.read_text())
    assert {
        "strategy": "stash",
        "delays": [4, 1, 0],
        "optimizer": "torch.optim.sgd.SGD",
        "width": 48,
    }.items() <= logged.items()
    (saved,) = tmp_path.rglob("*.ckpt")
    again = type(cli.model).load_from_checkpoint(saved, optimizer=cli.model.make_optimizer)
    assert dict(again.hparams) == dict(cli.model.hparams) | {"scheduler": None}


NUMBERS = r"^(\w+) +([\d.]+)$"


def printed_by_a_rank():
    with redirect_stdout(StringIO()) as printed:
        runpy.run_path(str(EXAMPLES / "two_processes.py"))["main"](2)
    return printed.getvalue()


def test_two_processes_print_the_numbers_of_the_simulation(capsys):
    torch.set_num_threads(2)  # as `python` has outside of these tests, where a launcher's processes have one
    simulated = re.findall(NUMBERS, run("two_processes", capsys, epochs=2), re.MULTILINE)
    assert torch.get_num_threads() == 1
    assert [name for name, _ in simulated] == ["train_loss", "val_loss", "val_accuracy"]
    first, second = processes.run(printed_by_a_rank, 2)
    assert re.findall(NUMBERS, first, re.MULTILINE) == simulated
    assert second == ""
