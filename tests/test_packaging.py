"""The files around the code agree with each other."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import layerpipe2

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_environment_is_python_and_this_package_with_everything():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    assert environment["dependencies"] == [f"python{PROJECT['requires-python']}", "pip", {"pip": ["-e .[all]"]}]


def test_all_is_every_other_extra():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"layerpipe2[{','.join(name for name in extras if name != 'all')}]"


def test_dependencies_are_ranges_without_local_versions():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (entry for entries in lists for entry in entries if not entry.startswith("layerpipe2")):
        assert re.fullmatch(r"[\w-]+>=[\d.]+(,<[\d.]+)?", requirement), requirement


def test_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == layerpipe2.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_package_says_which_public_names_it_has():
    assert all(getattr(layerpipe2, name) is not None for name in layerpipe2.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pipelined'"):
        _ = layerpipe2.pipelined


def test_make_help_lists_every_target():
    command = ["make", "--no-print-directory", "help"]  # these tests run below `make test`
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    assert [line.split()[0] for line in listed.strip().split("\n")] == [t for t in targets if t != "install"]


def test_ci_can_be_started():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
