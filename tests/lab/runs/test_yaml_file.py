"""YAML files: what may be in them, and one line about what may not."""

import math
import os

import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.runs.yaml_file import read_yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", r"a\.yaml isn't valid YAML \(while parsing"),
        (b"\xff\xfe\xfa", r"a\.yaml isn't valid YAML"),
        ("a: 1".encode("utf-16"), r"a\.yaml isn't valid YAML \('utf-8' codec .*\); save it as UTF-8"),
        ("a: 1".encode("utf-16-le"), r"a\.yaml isn't valid YAML \(unacceptable character"),
        (b"a: &a [1, 1]\nb: [*a, *a]\n", r"a\.yaml: line 2: aliases \(\*\) and tags \(!\) aren't allowed; write out"),
        (b"a: !!python/object:os.system x", r"line 1: aliases \(\*\) and tags \(!\) aren't allowed"),
        (b"[" * 60_000, "line 1: lists and mappings are nested deeper than 20 levels; give fewer"),
        (b"a: 1\nb: {c: 1, c: 2}\n", "line 2: key 'c' is given twice; remove one"),
        (b"5: 6", "line 1: a key isn't a text; put it in quotation marks"),
        (b"yes: 6", "line 1: a key isn't a text"),
        (b"a: 2026-99-99", r"isn't valid YAML \(month must be in 1\.\.12\)"),
        (b"a: 010", "line 1: '010' isn't a plain number; write it in at most 100 figures, without 0 in front"),
        (b"a: 1:30", "line 1: '1:30' isn't a plain number"),
        (b"a: 0x" + b"f" * 5000, "line 1: '0xfff.* isn't a plain number"),
        (b"a: 1" + b"0" * 400, "line 1: '1000.* isn't a plain number"),
        (
            b"#" * 2**16 + b"\n",
            r"a\.yaml is larger than the 65,536 bytes that are expected at most; give the right file",
        ),
        (b"- 1", r"^a\.yaml is \[1\]; give a mapping of keys"),
    ],
)
def test_a_bad_file_is_named(content, message, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_without_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(UserError, match=rf"{name}\.yaml is no regular file; give the right file"):
            read_yaml(tmp_path / f"{name}.yaml")


def test_what_is_small_and_plain_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, -2.5, .5, 1.0e-3, -0, .inf], c: '010'}\nd: &unused null\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, -2.5, 0.5, 0.001, 0, math.inf], "c": "010"}, "d": None}
