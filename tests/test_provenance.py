"""Where a result comes from."""

from importlib import metadata

import torch

from layerpipe2.provenance import git_state, provenance, versions


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert git_state(tmp_path) == (None, None)


def test_the_build_of_torch_is_recorded_also_where_its_package_does_not_name_it(monkeypatch):
    assert provenance(torch.device("cpu"))["versions"]["torch"] == torch.__version__
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.15.0+cu132"))
    monkeypatch.setattr(metadata, "version", lambda name: "2.15.0")
    found = versions.__wrapped__()
    assert (found["torch"], type(found["torch"]), found["torchvision"]) == ("2.15.0+cu132", str, "2.15.0")
