"""``layerpipe2 train --resume``: from the last checkpoint, or one line that names the intact one before it."""

import re
import sys

import pytest

from layerpipe2.cli import main
from layerpipe2.engine.checkpoint_file import read
from tests.bombs import mine
from tests.pipeline import processes

QUICK = ["train", "--width", "4", "--group-size", "5", "--batch-size", "256", "--epochs", "2", "--quiet"]


def in_folder(folder, *more):
    return [*QUICK, "--checkpoint-dir", str(folder), *more]


def flip(file):
    content = bytearray(file.read_bytes())
    content[content.index(b"\x80\x02}") + 20] ^= 16  # within the first member of the archive
    file.write_bytes(content)


def test_the_last_checkpoint_and_the_one_before_are_kept(tmp_path):
    assert main(in_folder(tmp_path)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [read(tmp_path / name)["epoch"] for name in ("last.ckpt", "previous.ckpt")] == [1, 0]


@pytest.mark.parametrize("several", [False, True])
def test_damage_and_bombs_are_refused_and_the_one_before_continues(several, tmp_path, capsys):
    folder, crater = tmp_path / "run", tmp_path / "crater"
    start = in_several if several else in_one
    assert start(tmp_path, capsys, in_folder(folder))[0] == 0
    last, previous = folder / "last.ckpt", folder / "previous.ckpt"
    file = last / "stage-001.pt" if several else last
    whole = file.read_bytes()
    for spoil, why in (
        (flip, r"is damaged \(archive/data.*\)"),
        (lambda file: mine(file, crater), r"names code \(.*\)"),
    ):
        spoil(file)
        code, said = start(tmp_path, capsys, in_folder(folder, "--resume"))
        assert code == 2
        line = rf"layerpipe2: error: checkpoint {file} {why}.*; take {previous}, which is intact, in its place"
        assert len(re.findall(rf"^{line}$", said, re.MULTILINE)) == 1, said
        assert "Traceback" not in said
        file.write_bytes(whole)
    assert not crater.exists()
    last.rename(folder / "moved.ckpt")  # as a kill leaves it, while the last one is written
    assert start(tmp_path, capsys, in_folder(folder, "--resume"))[0] == 0
    assert last.exists()


def in_one(folder, capsys, arguments):
    code = main(arguments)
    return code, capsys.readouterr().err


def in_several(folder, capsys, arguments):
    """Both must end alike; what the one with the second stage says."""

    def work():
        with open(2, "w", closefd=False) as sys.stderr:  # not pytest's
            sys.exit(main(arguments))

    (code, _), (other, said) = processes.ends(work, 2, folder)
    assert code == other
    return code, said
