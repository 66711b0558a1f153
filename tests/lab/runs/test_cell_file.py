"""Records of a folder in one file: a line per run, whole after kills and with several writers, or refused by line."""

import json
import os
import re
from itertools import permutations

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.runs import cell_file, records
from tests.chaos.processes import ended, fork
from tests.made_records import record

NAMES = ("ema-0.9-s0", "stash-common-s0", "stash-s0", "stash-s10")


def _line(name, content):
    return f'{{"name":{json.dumps(name)},"record":{content}}}\n'


def test_a_file_has_a_line_per_run_in_the_order_of_their_names_whatever_the_order_of_writing(tmp_path):
    texts = set()
    for number, names in enumerate(permutations(NAMES)):
        for name in names:
            cell_file.write(tmp_path / str(number) / f"{name}.json", record("stash", 5))
            cell_file.write(tmp_path / str(number) / f"{name}.json", record("stash", NAMES.index(name)))
        texts.add((tmp_path / str(number) / cell_file.FILE).read_text())
    (text,) = texts
    assert [json.loads(line)["name"] for line in text.splitlines()] == list(NAMES)
    found = cell_file.read_all(tmp_path / "0")
    assert found == {tmp_path / "0" / f"{name}.json": record("stash", n) for n, name in enumerate(NAMES)}


def test_a_run_without_a_record_has_none_and_removed_ones_leave_no_file(tmp_path):
    paths = [tmp_path / "a" / f"{name}.json" for name in NAMES]
    assert cell_file.read(paths[0]) is None
    for path in paths[:2]:
        cell_file.write(path, record())
    assert [cell_file.exists(path) for path in paths] == [True, True, False, False]
    cell_file.remove(paths[0])
    cell_file.remove(paths[3])
    assert cell_file.find(tmp_path) == [paths[1]]
    cell_file.remove(paths[1])
    assert list((tmp_path / "a").iterdir()) == []


def test_several_processes_write_one_file_and_lose_nothing(tmp_path):
    path = tmp_path / "runs" / "stash-s0.json"

    def writes(process):
        for seed in range(process, 60, 3):
            cell_file.write(path.with_name(f"stash-s{seed}.json"), record("stash", seed))

    started = [fork(lambda process=process: writes(process), tmp_path / str(process)) for process in range(3)]
    while len(found := cell_file.read_all(path.parent)) < 60:
        assert all(one["config"]["seed"] == int(run.stem[7:]) for run, one in found.items())
    assert [ended(process) for process in started] == [0, 0, 0]
    assert [file.name for file in path.parent.iterdir()] == [cell_file.FILE]


@pytest.mark.parametrize("before", [0, 1])
def test_a_writer_that_is_killed_leaves_the_old_lines_and_no_lock(tmp_path, before):
    paths = [tmp_path / "runs" / f"{name}.json" for name in NAMES[:3]]
    for path in paths[:before]:
        cell_file.write(path, record())

    def killed():
        os.fsync = lambda handle: os._exit(77)
        cell_file.write(paths[1], record())

    assert ended(fork(killed, tmp_path / "said")) == 77
    assert cell_file.find(tmp_path) == paths[:before]
    cell_file.write(paths[2], record())
    assert cell_file.find(tmp_path) == [*paths[:before], paths[2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"line 2 of .*records\.jsonl is no run's record; delete it and start again"),
        ("<<<<<<< HEAD\n", r"line 2 of .* is no run's record"),
        ("\n\n", r"line 2 of .* is no run's record"),
        ('{"name":"\\q","record":{}}', r"line 2 of .* is no run's record"),
        (_line("a", "{}"), r"line 2 of .* is a second record of a; delete it and start again"),
        (" " * 2**20, r"line 2 of .* is no run's record"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_the_file_stays(tmp_path, text, message):
    file = tmp_path / cell_file.FILE
    cell_file.write(tmp_path / "a.json", record())
    file.write_text(whole := file.read_text() + text)
    for change in (
        lambda: cell_file.find(tmp_path),
        lambda: cell_file.write(tmp_path / "b.json", record()),
        lambda: cell_file.remove(tmp_path / "a.json"),
    ):
        with pytest.raises(UserError, match=message):
            change()
    assert file.read_text() == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema":2', "isn't valid JSON"),
        ("[]", "its layout isn't 2"),
        ('{"schema":2}', r"it isn't what was written \(its checksum differs\)"),
        ('{"schema":2,"\x85":"\u2028"}', r"it isn't what was written"),
    ],
)
def test_a_torn_or_changed_record_is_named_the_others_stay_and_it_can_be_written_again(tmp_path, content, message):
    sound, broken = tmp_path / "a.json", tmp_path / "b.json"
    cell_file.write(sound, record())
    file = tmp_path / cell_file.FILE
    file.write_text(file.read_text() + _line("b", content).removesuffix("\n"))
    assert cell_file.read(sound) == record()
    place = re.escape(cell_file.place(broken))
    with pytest.raises(UserError, match=rf"^record {place}:? {message}.*; delete it and train again$"):
        cell_file.read(broken)
    cell_file.write(broken, record("latest"))
    assert cell_file.read_all(tmp_path) == {sound: record(), broken: record("latest")}


def test_a_record_is_written_elsewhere_if_its_file_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / cell_file.FILE).mkdir()
    monkeypatch.setattr(records.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"records\.jsonl is a folder; .*; until then the record is "):
        records.keep_record(tmp_path / "runs" / "a.json", record(), cell_file.write)
    (kept,) = tmp_path.rglob("a.json")
    assert records.read_record(kept) == record()
