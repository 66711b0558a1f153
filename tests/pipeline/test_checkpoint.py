"""Checkpoints by stage: no file runs code, a damaged or foreign one is refused, and an intact checkpoint is named."""

import os
import shutil
from functools import partial

import pytest
import torch

from layerpipe2 import UserError
from layerpipe2.pipeline.checkpoint import whole_state_dict
from tests.bombs import explodes, mine
from tests.pipeline import processes
from tests.pipeline.fits import Case, assert_same_weights, images, in_process, loaders, pipelined, trainer

# Lightning wants the callbacks of the training also where it tests.
pytestmark = pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided")
FILES = ["common.pt", *(f"stage-{k:03d}.pt" for k in range(4))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of two epochs of four stages."""
    folder = tmp_path_factory.mktemp("saved")
    processes.run(in_process, 2, Case("ema-window", folder=folder, epochs=2))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """The second of them, in a place of its own."""
    return shutil.copytree(saved / "epoch=1.ckpt", tmp_path / "copied" / "epoch=1.ckpt")


@pytest.mark.parametrize("kind", ["added", "alone"])
@pytest.mark.parametrize("file", FILES)
def test_no_file_runs_code(file, kind, folder, tmp_path):
    mine(folder / file, tmp_path / "crater", kind)
    assert explodes(folder / file, tmp_path / "crater")
    with pytest.raises(UserError, match=rf"{file} (names code \(posix\.mkdir\), and none of it was run|is damaged)"):
        whole_state_dict(folder)
    assert not (tmp_path / "crater").exists()


def resumed(folder):
    in_process(Case("ema-window", resume=folder), timeout_s=20)


def evaluated(folder):
    def work(strategy):
        one = trainer(strategy, max_epochs=1)
        return one.test(pipelined(images(), stage_seed=7), loaders()[1], ckpt_path=folder), None

    in_process(work, timeout_s=20)


@pytest.mark.parametrize(("work", "file"), [(resumed, FILES[0]), (resumed, FILES[3]), (evaluated, FILES[1])])
def test_a_bomb_ends_all_processes_with_one_line(work, file, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "0")  # as under a launcher, which shows what all say
    mine(folder / file, tmp_path / "crater")
    found = processes.ends(work, 2, tmp_path, folder)
    assert [code for code, _ in found] == [2, 2]
    said = "".join(text for _, text in found)
    assert len([line for line in said.splitlines() if f"{file} names code (posix.mkdir)" in line]) == 1, found
    assert "Traceback" not in said
    assert not (tmp_path / "crater").exists()


def flip(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[content.index(b"\x80\x02}") + 20] ^= 16  # within the first member
    (folder / file).write_bytes(content)


def exchange(folder):
    for old, new in ((FILES[1], "other"), (FILES[2], FILES[1]), ("other", FILES[2])):
        os.rename(folder / old, folder / new)


def unmark(folder):
    for file in FILES:
        content = torch.load(folder / file, weights_only=True)
        del content["save"]
        torch.save(content, folder / file)


DAMAGED = r"{} is damaged \(archive/data.*\); delete it and start without resuming"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((partial(flip, file=file), DAMAGED.format(file)) for file in FILES),
        (exchange, r"is a mixture \(stage-000\.pt doesn't belong there\)"),
        (lambda f: shutil.copy(f / FILES[3], f / FILES[0]), r"is a mixture \(common\.pt is the file of a stage\)"),
        (lambda folder: (folder / FILES[-1]).unlink(), r"has no stage \d; resume with as many stages"),
        (unmark, r"epoch=1\.ckpt lacks what this version saves; delete it and start without"),
    ],
    ids=str,
)
def test_a_damaged_or_foreign_checkpoint_is_refused(damage, message, folder):
    damage(folder)
    with pytest.raises(UserError, match=message):
        whole_state_dict(folder)


def test_files_of_two_saves_are_told_apart_and_an_intact_checkpoint_is_named(saved, folder):
    older = shutil.copytree(saved / "epoch=0.ckpt", folder.parent / "epoch=0.ckpt")
    shutil.copy(older / FILES[2], folder)
    with pytest.raises(UserError) as refused:
        whole_state_dict(folder)
    mixture = f"checkpoint {folder} is a mixture ({FILES[2]} doesn't belong there)"
    assert str(refused.value) == f"{mixture}; take {older}, which is intact, in its place"


def test_the_weights_of_a_save_that_was_killed_can_be_read(folder):
    expected = whole_state_dict(folder)
    os.rename(folder, folder.with_name(".epoch=1.ckpt.old"))
    assert_same_weights(whole_state_dict(folder), expected)
