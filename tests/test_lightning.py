"""``import lightning`` serves as well as ``import pytorch_lightning``, with the same numbers; a mixture is named."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from layerpipe2 import PipelinedModule, PipelineStrategy
from tests.sampling import slow
from tests.trained_by import sgd, trained, weights

ROOT = Path(__file__).parents[1]
SCRIPT = [sys.executable, "-m", "tests.trained_by", "lightning"]


@pytest.mark.parametrize(
    ("loaded", "chosen"),
    [
        ([], ("pytorch_lightning", "lightning_fabric")),
        (["pytorch_lightning"], ("pytorch_lightning", "lightning_fabric")),
        (["lightning"], ("lightning.pytorch", "lightning.fabric")),
        (["lightning", "pytorch_lightning"], ("pytorch_lightning", "lightning_fabric")),
    ],
    ids=" and ".join,
)
def test_lightning_is_chosen_where_it_alone_is_imported(loaded, chosen, monkeypatch):
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in loaded:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(importlib, "import_module", lambda name: name)
    found = runpy.run_path(str(ROOT / "src" / "layerpipe2" / "lightning.py"))
    assert (found["pl"], found["fabric"]) == chosen


@pytest.mark.parametrize(
    "make", [PipelineStrategy, lambda: PipelinedModule([nn.Linear(2, 2)], [0], "latest", optimizer=sgd)]
)
def test_one_line_says_that_two_are_imported(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    with pytest.warns(UserWarning, match="both imported, and layerpipe2 works with pytorch_lightning; take the Tr"):
        make()


def test_a_training_by_lightning_has_the_same_bits_and_goes_on_by_the_other(tmp_path):
    subprocess.run([*SCRIPT, str(tmp_path)], cwd=ROOT, check=True)
    first = torch.load(tmp_path / "weights-0.pt")
    whole = trained("pytorch_lightning", tmp_path / "other", 3)
    resumed = trained("pytorch_lightning", tmp_path, 3, resume=str(tmp_path / "epoch=1.ckpt"))
    assert first == weights(whole) == weights(resumed)
    assert first == weights(
        PipelinedModule.load_from_checkpoint(tmp_path / "last.ckpt", stages=whole.stages, optimizer=sgd)
    )


@slow
def test_processes_that_import_lightning_have_the_same_bits(tmp_path):
    launch = [sys.executable, "-m", "layerpipe2", "launch", "--processes", "2", "--", *SCRIPT[1:], str(tmp_path)]
    subprocess.run(launch, cwd=ROOT, check=True)
    parts = [torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2)]
    assert [*parts[0], *parts[1]] == weights(trained("pytorch_lightning", tmp_path / "other", 3))
