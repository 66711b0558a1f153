"""A resumed run continues bit for bit, with as many processes as before or with others."""

import shutil
from dataclasses import replace

import pytest

from layerpipe2.distributed import checkpoint
from tests.distributed import processes
from tests.distributed.training import Case, in_process

STAGES = [f"stage-{k:03d}.pt" for k in range(4)]


def merged(found):
    return {name: value for _, own, _ in found for name, value in own.items()}


@pytest.mark.parametrize(("before", "after"), [(2, 2), (4, 2), (1, 3)])
@pytest.mark.parametrize(
    "case",
    [
        Case("stash"),
        Case("latest"),
        Case("ema-window"),
        Case("pair", "pipedream"),
        Case("update-window", optimizer="adamw"),
        Case("ema-span-raw", drain=True),
        Case("ema-lsq", delays=(12, 7, 2, 0)),  # longer than two epochs
    ],
    ids=str,
)
def test_resumed_equals_uninterrupted(case, before, after, tmp_path):
    whole = processes.run(in_process, before, replace(case, folder=tmp_path))
    files = sorted(path.name for path in (tmp_path / "epoch=1.ckpt").iterdir())
    assert files == ["common.pt", *STAGES]
    resumed = processes.run(in_process, after, replace(case, resume=tmp_path / "epoch=1.ckpt"))
    assert resumed[0][0][-1] == whole[0][0][-1]
    assert resumed[0][2] == whole[0][2]
    before, after = merged(whole), merged(resumed)
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("strategy", ["stash", "ema-window"])
def test_saving_changes_nothing(strategy, tmp_path):
    case = Case(strategy)
    saved, plain = (processes.run(in_process, 2, c) for c in (replace(case, folder=tmp_path), case))
    assert [rows for rows, _, _ in saved] == [rows for rows, _, _ in plain]


def test_what_does_not_fit(tmp_path):
    processes.run(in_process, 2, Case("stash", folder=tmp_path, epochs=1))
    folder = tmp_path / "epoch=0.ckpt"
    with pytest.raises(AssertionError, match=r"checkpoint does not fit stage [02]"):
        processes.run(in_process, 2, Case("pair", resume=folder))
    (folder / STAGES[3]).unlink()
    with pytest.raises(AssertionError, match="has no stage 3; resume with as many stages as it was saved with"):
        processes.run(in_process, 2, Case("stash", resume=folder))
    with pytest.raises(AssertionError, match="no checkpoint of a pipeline of several processes in"):
        processes.run(in_process, 2, Case("stash", resume=tmp_path / "nowhere"))


def test_the_weights_can_be_read_in_one_process(tmp_path):
    found = processes.run(in_process, 2, Case("ema-window", folder=tmp_path))
    weights = checkpoint.whole_state_dict(tmp_path / "epoch=2.ckpt")
    assert weights.keys() == merged(found).keys()
    assert all(value.equal(weights[name]) for name, value in merged(found).items())


def test_saving_in_the_middle_of_an_epoch(tmp_path):
    case = Case(options={"max_steps": 8, "val_check_interval": 3}, folder=tmp_path)
    with pytest.raises(AssertionError, match="saves at the end of an epoch only"):
        processes.run(in_process, 2, case)


def test_killed_while_writing(tmp_path):
    """The folder is there whole or not at all, whenever the writer dies."""
    folder = tmp_path / "last.ckpt"
    write = lambda n: checkpoint.write(folder, {"n": n, "pipeline": {}}, {}, first=True, barrier=lambda: None)  # noqa: E731
    write(1)
    half = tmp_path / ".last.ckpt.part"
    half.mkdir()
    (half / "stage-000.pt").write_bytes(b"half")
    assert checkpoint.read(folder, [])["n"] == 1
    write(2)
    assert checkpoint.read(folder, [])["n"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    shutil.move(folder, tmp_path / ".last.ckpt.old")  # killed between the two renames
    assert checkpoint.read(folder, [])["n"] == 2
