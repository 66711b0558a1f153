"""Where a result comes from."""

import sys
from importlib import import_module, metadata

import torch

from layerpipe2.lab.provenance import TRAINING, git_state, provenance
from layerpipe2.versions import versions
from tests.chaos.processes import ended, fork


def _imported():
    """Import the code of a run anew, and list what of this project was imported by that."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "layerpipe2"]:
        del sys.modules[name]
    import_module("layerpipe2.lab.runs.train")
    print(*(name for name in sys.modules if name.startswith("layerpipe2.")))


def test_the_hash_of_the_code_covers_whatever_a_run_imports(tmp_path):
    """But not several processes, which train the same, nor what says what is wrong."""
    assert ended(fork(_imported, tmp_path / "said")) == 0
    rooms = {
        "/".join(parts[: 2 if parts[0] == "lab" else 1])
        for name in (tmp_path / "said").read_text().split()
        if (parts := name.split(".")[1:])
    }
    beside = {"errors", "lab", "lab/provenance", "pipeline", "versions"}
    later = {"compiling"}  # when an average first needs it
    assert (rooms - beside) | later == {name.removesuffix(".py") for name in TRAINING}


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert git_state(tmp_path) == (None, None)


def test_the_build_of_torch_is_recorded_also_where_its_package_does_not_name_it(monkeypatch):
    assert provenance(torch.device("cpu"))["versions"]["torch"] == torch.__version__
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.15.0+cu132"))
    monkeypatch.setattr(metadata, "version", lambda name: "2.15.0")
    found = versions.__wrapped__()
    assert (found["torch"], type(found["torch"]), found["torchvision"]) == ("2.15.0+cu132", str, "2.15.0")
