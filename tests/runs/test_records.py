"""Records on disk: whole or not at all."""

import json
import math
import os
import tempfile
from pathlib import Path

import pytest

from layerpipe2.errors import UserError
from layerpipe2.runs.records import fingerprint, read_record, read_records, write_json, write_text


def test_json_has_sorted_keys_and_null_for_what_is_not_finite(tmp_path):
    write_json(tmp_path / "deep" / "run.json", {"b": math.nan, "a": [math.inf, 1.5], "c": {"d": (1, -math.inf)}})
    text = (tmp_path / "deep" / "run.json").read_text()
    assert json.loads(text) == {"a": [None, 1.5], "b": None, "c": {"d": [1, None]}}
    assert text.index('"a"') < text.index('"b"')


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_text(path, "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def refuse(dir):  # mocked, because nothing is read-only for root
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"can't be written \(Permission denied\); change its permissions"):
        write_text(tmp_path / "run.json", "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"), [("{", "isn't valid JSON"), ("[]", "layout 1"), ('{"schema": 0}', "layout 1")]
)
def test_a_broken_record_is_named(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=rf"run\.json .*{message}"):
        read_records(tmp_path)


def test_missing_records_name_the_remedy(tmp_path):
    with pytest.raises(UserError, match="make reproduce"):
        read_records(tmp_path)
    with pytest.raises(UserError, match="can't be read"):
        read_record(tmp_path / "none.json")


def test_equal_records_have_equal_fingerprints():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
