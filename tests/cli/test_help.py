"""The help: complete, with examples that are valid, and quick."""

import re
import subprocess
import sys

import pytest

from layerpipe2 import __version__
from layerpipe2.cli import main, make_parser
from layerpipe2.lab.runs.config import RunConfig


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_setting_is_an_option_of_train_under_its_heading(capsys):
    text = shown(capsys, "train", "--help")
    fields = RunConfig.model_json_schema()["properties"]
    assert all(f"--{name.replace('_', '-')}" in text for name in fields)
    assert all(field["description"] and f"\n{field['section']}:\n" in text for field in fields.values())
    assert "examples:" in text


@pytest.mark.parametrize(
    "command", ["train", "advise", "check", "delays", "balance", "info", "launch", "stability", "derive", "schedule"]
)
def test_the_examples_in_the_help_are_valid(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^  layerpipe2 (.*?)(?:    .*| > .*)?$", shown(capsys, command, "--help"), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        options = make_parser().parse_args(line.split())
        assert options.command == command
        assert command != "launch" or options.command_line[0] == "--"
        assert command not in ("stability", "derive", "schedule") or main(line.split()) == 0, line
    assert command != "derive" or (tmp_path / "pipeline.dot").read_text().startswith("digraph training {")


def test_the_version(capsys):
    assert shown(capsys, "--version") == f"layerpipe2 {__version__}\n"


NEEDLESS = {
    "--help": "torch",
    "balance --help": "torch",
    "delays": "pytorch_lightning",
    "tune status": "pytorch_lightning",  # there is no study here, which is found out after all imports
}
IMPORTING = f"""
import sys
from contextlib import suppress
from layerpipe2.cli import main

for command, needless in {NEEDLESS}.items():
    with suppress(SystemExit):
        main(command.split())
    assert needless not in sys.modules, command
"""


def test_a_command_imports_only_what_it_needs():
    """One after the other in one process: what the first ones import, the last ones need."""
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
