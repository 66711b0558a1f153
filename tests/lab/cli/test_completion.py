"""``--print-completion``: a shell completes commands, options and names from what it prints."""

import subprocess
import sys

import pytest

from layerpipe2.cli import main

_ASK = """
source {script}
complete -p layerpipe2 > /dev/null
COMP_WORDS=({words} "{begun}"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
$(complete -p layerpipe2 | sed 's/.*-F \\([^ ]*\\).*/\\1/') layerpipe2 "{begun}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("shell") / "layerpipe2.bash"
    command = [sys.executable, "-m", "layerpipe2", "--print-completion", "bash"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


@pytest.mark.parametrize(
    ("words", "begun", "expected"),
    [
        ("layerpipe2", "st", {"stability"}),
        ("layerpipe2 train", "--strat", {"--strategy"}),
        ("layerpipe2 train --network", "resnet", {"resnet18", "resnet-small"}),
    ],
)
def test_bash_completes(words, begun, expected, script):
    ask = _ASK.format(script=script, words=words, begun=begun)
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False)
    assert expected <= set(done.stdout.split()), done.stderr
    assert not [found for found in done.stdout.split() if not found.startswith(begun)]


def test_another_shell_is_refused(capsys):
    assert main(["--print-completion", "fish"]) == 2
    assert capsys.readouterr().err == "layerpipe2: error: unknown shell 'fish'; known: bash, zsh, tcsh\n"


def test_without_shtab_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "needs shtab; run: pip install shtab\n" in capsys.readouterr().err
