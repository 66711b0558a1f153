"""Records on disk: whole or not at all, and read as they were written or refused."""

import errno
import json
import math
import os
import random
import tempfile
from pathlib import Path

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import (
    TIMES,
    fingerprint,
    not_finite,
    read_record,
    split_times,
    with_times,
    write_json,
    write_record,
    write_text,
)
from tests.chaos.records import forged_case, outcome, record_case
from tests.made_records import DIVERGENCE, record


def test_json_has_sorted_keys_and_null_for_what_is_not_finite(tmp_path):
    write_json(tmp_path / "deep" / "run.json", {"b": math.nan, "a": [math.inf, 1.5], "c": {"d": (1, -math.inf)}})
    text = (tmp_path / "deep" / "run.json").read_text()
    assert json.loads(text) == {"a": [None, 1.5], "b": None, "c": {"d": [1, None]}}
    assert text.index('"a"') < text.index('"b"')


def test_times_apart_are_read_with_the_record_that_they_belong_to_and_no_other(tmp_path):
    whole = record() | {"epochs": [], "test": {"loss": math.inf, "accuracy": 0.5, "images": 450}}
    rest, times = split_times(whole)
    write_json(tmp_path / "times.json", times)
    found = with_times(json.loads(json.dumps(rest).replace("Infinity", "null")), tmp_path / "times.json")
    assert {name: found["provenance"][name] for name in TIMES} == {name: whole["provenance"][name] for name in TIMES}
    other = with_times(rest | {"test": None}, tmp_path / "times.json")
    assert {other["provenance"][name] for name in TIMES} == {None}


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("where", "name"), [(Path, "replace"), (os, "fsync"), (Path, "open")])
def test_a_failed_write_is_one_line_and_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, where, name):
    path = tmp_path / "run.json"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(where, name, full)
        with pytest.raises(UserError, match=r"run\.json can't be written \(No space left on device\); make room or"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_file_is_on_disk_before_it_gets_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, Path.replace

    def syncs(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else os.stat(handle).st_size)
        sync(handle)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("name"), replace(*paths)))
    write_text(tmp_path / "run.json", "123")
    assert done == [3, "name", "folder"]


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def refuse(dir):  # mocked, because nothing is read-only for root
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"can't be written \(Permission denied\); change its permissions"):
        write_text(tmp_path / "run.json", "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "isn't valid JSON"),
        ("[]", "is no mapping"),
        ('{"schema": 1}', "its layout isn't 2"),
        ('{"schema": 2}', r"it isn't what was written \(its checksum differs\)"),
        ("[" * 100_000, "isn't valid JSON"),
        (" " * 2**24 + "{}", "is larger than the 16,777,216 bytes that are expected at most"),
    ],
)
def test_a_broken_record_is_named(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=rf"run\.json:? {message}; delete it and train again$"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path, make):
    path = tmp_path / "run.json"
    make(path)
    with pytest.raises(UserError, match=r"run\.json is no regular file; delete it"):
        read_record(path)
    with pytest.raises(UserError, match=r"run\.json is (a folder|no regular file); give the name of a file"):
        write_record(path, record())
    assert not path.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"network": "../../up"}}, r"config\.network: name is '../../up'; give a name"),
        ({"config": {"lr": -1.0}}, r"config\.lr is -1\.0; give a finite number > 0"),
        ({"config": {"a\nb": 1}}, r"config: unknown key 'a\\nb'"),
        ({"delays": [2, 0]}, "delays and network.parameters_per_stage have different lengths"),
        ({"epochs": []}, r"epochs is \[\]; give a list"),
        ({"test": {"loss": math.nan}}, r"status is 'completed', but test\.loss is null"),
        (
            {"status": "diverged", "diverged_epoch": 1, "divergence": DIVERGENCE},
            "status is 'diverged', but there are test results",
        ),
        ({"divergence": DIVERGENCE}, "status is 'completed', but there is a divergence"),
        ({"status": "diverged"}, "status is 'diverged', but diverged_epoch is None"),
        ({"provenance": {"started": "yesterday"}}, r"provenance\.started: 'yesterday' is no time"),
    ],
)
def test_a_record_that_says_what_cannot_be_is_refused_though_its_checksum_is_right(tmp_path, changes, message):
    made = record()
    merged = {k: made[k] | v if isinstance(made[k], dict) else v for k, v in changes.items()}
    write_record(tmp_path / "run.json", made | merged)
    with pytest.raises(UserError, match=rf"run\.json: {message}.*; delete it and train again$"):
        read_record(tmp_path / "run.json")


def test_a_setting_that_is_missing_is_named_unless_it_is_none_by_default(tmp_path):
    made = record()
    del made["config"]["delays"]
    write_record(tmp_path / "run.json", made)
    assert read_record(tmp_path / "run.json") == made
    del made["config"]["lr"]
    write_record(tmp_path / "run.json", made)
    with pytest.raises(UserError, match=r"run\.json: config: 'lr' is missing"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("made", [record(), record("latest", diverged=True)], ids=["completed", "diverged"])
def test_a_changed_digit_is_refused(tmp_path, made):
    path = tmp_path / "run.json"
    write_record(path, made)
    text = path.read_text()
    assert read_record(path) == made
    places = [place for place, sign in enumerate(text) if sign.isdigit()]
    assert len(places) > 100
    for place in places:
        path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
        assert outcome(lambda: read_record(path)) is None, f"digit {place}"


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_record_is_refused_in_one_line_or_equal(tmp_path, seed):
    rng, made, path, found = random.Random(seed), record(diverged=seed == 0), tmp_path / "run.json", []
    for _ in range(100):
        path.write_bytes(record_case(rng, made))
        found.append(outcome(lambda: read_record(path)))
    assert all(same in (None, made) for same in found)
    assert sum(same is None for same in found) > 50
    for _ in range(50):
        path.write_bytes(forged_case(rng, made))
        outcome(lambda: read_record(path))


def test_the_first_number_that_is_not_finite_is_found():
    assert not_finite({"a": [1, 2.0, None, True], "b": {"c": (math.nan,), "d": "nan"}}) == "b.c.0"
    assert not_finite([{"loss": 1.0}, {"loss": -math.inf}]) == "1.loss"
    assert not_finite({"a": [1, {}], "b": None}) is None


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        read_record(tmp_path / "none.json")


def test_equal_records_have_equal_fingerprints():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
