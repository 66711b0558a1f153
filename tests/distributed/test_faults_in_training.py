"""A process of a real training fails: all others end and say which, and the last checkpoint continues bit for bit."""

import os
from dataclasses import replace

import pytest

from tests.distributed import processes
from tests.distributed.training import Case, in_process

WORLD = 3


@pytest.mark.parametrize(
    ("fault", "code", "cause"),
    [
        ("kill@1", -9, "rank 1 ("),
        ("hang@0", 2, "rank 0 ("),
        ("nan@1", 2, "stage 1 diverged at mini-batch"),
        ("bug@2", 1, "a bug; all ranks end"),
    ],
)
def test_the_others_end_and_the_run_continues(fault, code, cause, tmp_path):
    case, failed = Case("ema-span", folder=tmp_path), int(fault[-1])
    found = processes.ends(in_process, WORLD, tmp_path, replace(case, fault=fault), timeout_s=3)
    assert [end for end, _ in found] == [code if rank == failed else 2 for rank in range(WORLD)], found
    for rank, (_, said) in enumerate(found):
        if rank != failed:
            assert cause in said.splitlines()[-1], found
            assert "Traceback" not in said
    assert [path.name for path in tmp_path.glob("epoch*")] == ["epoch=0.ckpt"]
    resumed = processes.run(in_process, 2, Case("ema-span", resume=tmp_path / "epoch=0.ckpt"))
    whole = processes.run(in_process, 2, Case("ema-span"))
    assert resumed[0][0][-1] == whole[0][0][-1]


def test_other_settings_on_one_process(tmp_path):
    found = processes.ends(_two_clippings, 2, tmp_path)
    for code, said in found:
        assert code == 2
        assert "rank 1 differs from rank 0 in drain, clipping, seed of the stages: False, 0.5, 7 against" in said


def _two_clippings():
    in_process(Case(clip=0.5 if os.environ["RANK"] == "1" else None))
