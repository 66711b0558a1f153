"""Journals: what isn't one is refused, half a line is removed, full disks, locks of killed owners."""

import errno
import os
import resource
import signal
import time

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.tuning.results import status
from layerpipe2.lab.tuning.storage import JOURNAL, open_storage
from layerpipe2.lab.tuning.study import open_existing, work
from tests.chaos.processes import ended, fork
from tests.lab.tuning.studies import made_up, outcome, runs_are, small_study


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"garbage",
        lambda whole: b"garbage\n",
        lambda whole: b"\xff\xfe\x00\n",
        lambda whole: b"5\n",
        lambda whole: b"{}\n",
        lambda whole: b"[]\n" + whole,
        lambda whole: whole[:200] + b"\n" + whole[200:],
        lambda whole: whole + b"garbage\n",
        lambda whole: whole + b"garbage",
    ],
)
def test_what_is_no_journal_is_refused_and_kept(spoil, tmp_path):
    small_study(tmp_path)
    journal = tmp_path / JOURNAL
    journal.write_bytes(spoil(journal.read_bytes()))
    before = journal.read_bytes()
    with pytest.raises(UserError, match=r"study .*journal\.log can't be read \(.*\); delete it or give another folder"):
        open_existing(tmp_path)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 20])
def test_half_a_line_at_the_end_is_removed(cut, tmp_path, monkeypatch):
    study = small_study(tmp_path)
    with runs_are(made_up, monkeypatch):
        study.do_one()
        before, journal = outcome(study), tmp_path / JOURNAL
        journal.write_bytes(journal.read_bytes() + b'{"op_code":6,"worker_id":"a killed one\'s'[:-cut])
        again = open_existing(tmp_path)
        assert outcome(again) == before
        work([again])
    assert outcome(open_existing(tmp_path))[0] == before[0]
    assert status(open_existing(tmp_path)).finished == 6


def test_an_empty_folder_or_journal_is_no_study(tmp_path):
    with pytest.raises(UserError, match=r"there is no study in .*; start one with `layerpipe2 tune`, or give its"):
        open_existing(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / JOURNAL).touch()
    with pytest.raises(UserError, match="there is no study 'study'; start it with `layerpipe2 tune`"):
        open_existing(tmp_path)
    assert small_study(tmp_path).trials()


def test_somebody_elses_study_is_refused(tmp_path):
    import optuna

    optuna.create_study(storage=open_storage(tmp_path, None), study_name="study")
    with pytest.raises(UserError, match="study study isn't one of `layerpipe2 tune`; give another name"):
        open_existing(tmp_path)


def test_a_disk_that_fills_up_leaves_a_journal_that_can_be_read(tmp_path, monkeypatch):
    """The limit of a file's size: a write ends in the middle of a line, as on a full disk."""
    study = small_study(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with runs_are(made_up, monkeypatch):
        study.do_one()
        before = outcome(study)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / JOURNAL).stat().st_size + 50, limit[1]))
        try:
            with pytest.raises(UserError, match=r"study study can't go on \(File too large\); make room and give the"):
                work([study])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert not (tmp_path / JOURNAL).read_bytes().endswith(b"\n")
        again = small_study(tmp_path)
        assert outcome(again)[0] == before[0]
        work([again])
    assert status(again).finished == 6


def test_a_disk_without_room_for_a_record_keeps_the_trial(tmp_path, monkeypatch):
    study, sync = small_study(tmp_path), os.fsync

    def full(handle):
        if "/trials/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with runs_are(made_up, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            message = r"00000\.json can't be written \(No space left .*; until then the record is "
            with pytest.raises(UserError, match=message):
                work([study])
        assert status(study).counts == {"waiting": 6}
        work([study])
    assert status(study).finished == 6


def test_a_process_that_is_killed_while_it_writes_holds_nobody_up(tmp_path):
    study = small_study(tmp_path)
    lock = study.optuna_study._storage._backend._lock

    def owner():
        assert lock.acquire()
        (tmp_path / "has it").touch()
        time.sleep(100)

    child = fork(owner, tmp_path / "said")
    while not (tmp_path / "has it").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    ended(child)
    assert not [path for path in tmp_path.iterdir() if "lock" in path.name]  # Optuna's own stays for 30 s
    assert lock.acquire()
    lock.release()
