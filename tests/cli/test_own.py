"""A training of one's own: what its function may return, and that it is the same one for three commands."""

import json
import re
import shlex
from pathlib import Path

import pytest

from layerpipe2.cli import balance, main
from layerpipe2.lab.tuning.results import status
from layerpipe2.lab.tuning.study import open_existing
from tests.advice import advised

ROOT = Path(__file__).parents[2]
OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from layerpipe2 import PipelinedModule

x = torch.linspace(-1, 1, 64)[:, None]
train, validation = DataLoader(TensorDataset(x, x.sin()), 16), DataLoader(TensorDataset(x, x.sin()), 64)
units = lambda: [nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1)]

network = lambda: nn.Sequential(*units())
def whole(): return network(), (train, validation), "mse_loss"
def stages(): return units(), (list(train), list(validation)), nn.MSELoss()
def pipeline():
    return PipelinedModule(units(), "layerpipe2", "stash", optimizer=torch.optim.SGD, loss="mse_loss"), train
def unlike(): return network(), train
def no_loader(): return network(), x, "mse_loss"
def misspelt(): return network(), train, "mse_los"
def unjudged(): return network(), train, "mse_loss"
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The name of a module with functions, which no other test imports, in the working folder."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


TUNE = ["tune", "--space", "lr=log:0.01:0.5", "--objective", "loss", "--epochs", "1", "--trials", "2", "--quiet"]


@advised
@pytest.mark.parametrize(("function", "cut"), [("whole", ["--stages", "3"]), ("stages", [])])
def test_one_function_is_for_all_three(function, cut, module, tmp_path, capsys):
    own = ["--module", f"{module}:{function}"]
    assert main(["balance", *own, "--stages", "1", "--repeats", "1", "--optimizer", "adamw"]) == 0
    assert re.match(rf"{module}:{function}: [34] units, mini-batches of 16, adamw, ", capsys.readouterr().out)
    assert main(["advise", *own, *cut, "--steps", "3", "--lr", "0.05", "--strategies", "latest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["updates"], [row["delay"] for row in found["stages"]]) == (3, [4, 2] if cut else [6, 2])
    assert main([*TUNE, *own, *cut]) == 0
    study = open_existing(tmp_path / "study")
    assert status(study).counts == {"completed": 2}
    assert (len(study.settings.at), study.settings.module) == (2 if cut else 0, own[1])
    again = [trial.values for trial in study.trials()]
    assert main([*TUNE, *own, *cut, "--trials", "3"]) == 0
    assert [trial.values for trial in open_existing(tmp_path / "study").trials()][:2] == again
    (tmp_path / f"{module}.py").write_text(f"{OWN}\n")
    assert main([*TUNE, *own, *cut, "--trials", "4"]) == 2
    assert "study study was made with other code" in capsys.readouterr().err


@advised
def test_the_page_is_followed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(balance, "_comparison", lambda *given: "")  # times processes, which other tests do
    text = (ROOT / "docs" / "howto" / "own-network.md").read_text()
    (code,) = re.findall(r'^```python title="mine.py"\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    commands = re.findall(r"^\$ layerpipe2 (.+?)(?: {2,}#.*)?$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["balance", "advise", "tune"]
    for command in commands:
        assert main(shlex.split(command)) == 0
    told = capsys.readouterr().out
    assert "mine:training: 6 units, mini-batches of 32, sgd, strategy stash, " in told
    assert "mine:training, 3 stages, sgd, learning rate 0.05: 50 updates with each strategy" in told
    assert "study: 6 of 6 trials finished (" in told


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            "unlike",
            ["advise"],
            "; return three: a network or a list of its stages, data, loss; or two: a PipelinedModule",
        ),
        (
            "no_loader",
            ["advise"],
            "; return a loader of training batches, or a tuple of it and one of validation batches",
        ),
        ("misspelt", ["balance"], "unknown loss 'mse_los'; did you mean 'mse_loss'?"),
        ("pipeline", ["advise", "--lr", "0.1"], "--lr is for a network, and {}:pipeline returns a PipelinedModule"),
        ("pipeline", ["balance", "--strategy", "latest"], "--strategy is for a network, and {}:pipeline returns"),
        ("stages", ["advise", "--stages", "3"], "--stages is 3, but {}:stages returns 4 stages; leave it out"),
        ("pipeline", TUNE, "{}:pipeline returns a PipelinedModule, whose settings are made; return network, data"),
        ("unjudged", TUNE, "{}:unjudged returns no validation data, which judge trials; return (train, validation)"),
        ("whole", [*TUNE, "--precision", "float64"], "precision is 'float64'; let your network and your data have it"),
        ("whole", ["advise", "--convention", "custom", "--delays", "1"], "there are 1 delays but the network has 2"),
        ("nowhere", TUNE, "unknown function of {} 'nowhere'; known: units, network, whole, stages"),
    ],
)
def test_what_does_not_fit_is_one_line(function, arguments, message, module, tmp_path, capsys):
    assert main([*arguments, "--module", f"{module}:{function}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("layerpipe2: error: ")
    assert said.count("\n") == 1
    assert message.format(module) in said
    assert not (tmp_path / "study" / "journal.log").exists()
